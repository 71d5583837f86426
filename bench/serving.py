"""The service of `bench.adapters`, in a process of its own: everything is real but the engine, which keeps a set pace.

In: the port of a fake platform, its authority's file and a directory. Out, at the end of stdin: one line of JSON with
the worst lag of the event loop and when each answer was begun and ended.
"""

import asyncio
import json
import ssl
import sys
import time
from pathlib import Path
from unittest.mock import patch

import aiohttp

from adapters.discord.adapter import DiscordAdapter
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


async def serve(port: int, authority: str, root: Path, token: str, questions: list[str]) -> dict[str, object]:
    """Serve until stdin ends; what was measured."""
    settings = make_settings(root, discord_bot_token=token, per_user=100, queue_size=1000)
    pace, lag = Pace(), Lag()
    engine = ScriptedEngine(pace.passing, max_running=CHANNELS)
    for question in questions:
        engine.answers(question, ANSWER)
    trusted = ssl.create_default_context(cafile=authority)
    adapter = DiscordAdapter(settings, lambda: aiohttp.TCPConnector(limit=0, resolver=Loopback(port), ssl=trusted))
    service = Service(settings, Catalog.of(settings), [adapter], engine)
    watching = asyncio.create_task(lag.watch())
    with patch("bot.models.shelf.probe", return_value=MACHINE):
        running = asyncio.create_task(service.run())
        await asyncio.to_thread(sys.stdin.read)
        watching.cancel()
        service.stop()
        await running
    lag.seen.sort()
    return {"begun": pace.begun, "ended": pace.ended, "lag": [lag.seen[int(len(lag.seen) * 0.999)], lag.seen[-1]]}


if __name__ == "__main__":
    given_port, given_authority, given_root, given_token, *given_questions = sys.argv[1:]
    measured = serve(int(given_port), given_authority, Path(given_root), given_token, given_questions)
    print(json.dumps(asyncio.run(measured)))
