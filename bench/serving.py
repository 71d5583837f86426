"""The service of `bench.adapters`, in a process of its own: everything is real but the engine, which keeps a set pace.

In: settings as JSON, how to reach the fake platform, a directory. Out, at the end of stdin: one line of JSON with the
worst lag of the event loop and when each answer was begun and ended. Asked to, it has a real engine load a real model
again and again meanwhile, in a process of its own as ever.
"""

import asyncio
import json
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import aiohttp

from adapters.discord.adapter import DiscordAdapter
from adapters.slack.adapter import SlackAdapter
from bench.asking import unseen
from bot.adapter import Adapter
from bot.config import Settings
from bot.engine.base import ModelSource
from bot.engine.process import EngineProcess
from bot.models.catalog import Catalog
from bot.service import Service
from tests.fakes.engine import ScriptedEngine
from tests.fakes.tls import Loopback
from tests.service_harness import MACHINE, make_settings

CHANNELS = 8
PREFILL_S, TOKEN_S = 0.3, 0.03
"""How long the engine takes for its first token and for each further one."""
TOKENS = 80
ANSWER = " ".join(f"word{number}" for number in range(TOKENS))
TICK_S = 0.005


class Pace:
    """The engine's clock: when each answer's first and last token came (Unix seconds), by question."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    async def passing(self, point: str) -> None:
        """Sleep as long as the engine would work."""
        question, _, number = point.rpartition("/")
        if not number.isdecimal():
            return
        await asyncio.sleep(TOKEN_S if int(number) else PREFILL_S)
        self.begun.setdefault(question, time.time())
        self.ended[question] = time.time()


class Lag:
    """How late the event loop is."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    async def watch(self) -> None:
        """Measure for ever."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self.seen.append(time.perf_counter() - before - TICK_S)


@dataclass(frozen=True, slots=True)
class Errand:
    """What to serve. `port` and `authority` lead to a fake Discord; `loads`: a model's directory, to be loaded again
    and again."""

    root: str
    questions: list[str]
    settings: dict[str, str]
    port: int = 0
    authority: str = ""
    loads: str = ""


def adapter_for(settings: Settings, errand: Errand) -> Adapter:
    """The adapter of the platform whose tokens are set."""
    if settings.slack_bot_token is not None:
        return SlackAdapter(settings)
    trusted = ssl.create_default_context(cafile=errand.authority)
    return DiscordAdapter(settings, lambda: aiohttp.TCPConnector(limit=0, resolver=Loopback(errand.port), ssl=trusted))


async def keep_loading(path: str) -> None:
    """Load a model, again and again."""
    while True:
        engine = EngineProcess()
        try:
            await engine.load(ModelSource("bench", path, device="cpu"), unseen)
        finally:
            await engine.close()


async def serve(errand: Errand) -> dict[str, object]:
    """Serve until stdin ends; what was measured."""
    settings = make_settings(Path(errand.root), per_user=100, queue_size=1000, **errand.settings)
    pace, lag = Pace(), Lag()
    engine = ScriptedEngine(pace.passing, max_running=CHANNELS)
    for question in errand.questions:
        engine.answers(question, ANSWER)
    service = Service(settings, Catalog.of(settings), [adapter_for(settings, errand)], engine)
    meanwhile = [asyncio.create_task(lag.watch())]
    if errand.loads:
        meanwhile.append(asyncio.create_task(keep_loading(errand.loads)))
    with patch("bot.models.shelf.probe", return_value=MACHINE):
        running = asyncio.create_task(service.run())
        await asyncio.to_thread(sys.stdin.read)
        for task in meanwhile:
            task.cancel()
        await asyncio.gather(*meanwhile, return_exceptions=True)
        service.stop()
        await running
    lag.seen.sort()
    return {"begun": pace.begun, "ended": pace.ended, "lag": [lag.seen[int(len(lag.seen) * 0.999)], lag.seen[-1]]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(serve(Errand(**json.loads(sys.argv[1]))))))
