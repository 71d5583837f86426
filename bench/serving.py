"""The service of `bench.adapters` in a separate process: all real except the engine, which has a fixed speed.

Reads `ServingParameters` as JSON from its first argument and serves until stdin ends. Then prints one line of JSON with
the lag of the event loop, the start and end of each answer, and the time when each message was stored. With `loads`, a
real engine repeatedly loads a real model at the same time; with `model`, a real model answers.
"""

import asyncio
import gc
import json
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import aiohttp

from adapters.discord.adapter import DiscordAdapter
from adapters.slack.adapter import SlackAdapter
from bench.asking import unseen
from bot.config.settings import Settings
from bot.core.core import ServiceCore
from bot.engine.client.process import EngineProcess
from bot.models.catalog import Catalog
from bot.platforms.adapter import Adapter
from bot.service.service import Service
from bot.types.engine import ModelSource
from bot.types.messages import Event, IncomingMessage, Outcome
from tests.support.builders.service import MACHINE, make_settings
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.tls import Loopback

CHANNELS = 8
PREFILL_S, TOKEN_S = 0.3, 0.03
"""Seconds until the engine's first token, and per further token."""
TOKENS = 80
TICK_S = 0.005


class Pace:
    """Delays the scripted engine, and records each answer's first and last token (Unix seconds), by question."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    async def passing(self, point: str) -> None:
        """Sleeps as long as an engine would compute."""
        question, _, number = point.rpartition("/")
        if not number.isdecimal():
            return
        await asyncio.sleep(TOKEN_S if int(number) else PREFILL_S)
        self.begun.setdefault(question, time.time())
        self.ended[question] = time.time()


class Lag:
    """Measures the lag of the event loop."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    async def watch(self) -> None:
        """Measures forever."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self.seen.append(time.perf_counter() - before - TICK_S)


class Stored:
    """Records when the core first stored each message (Unix seconds), by the platform's id."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self._really = ServiceCore.handle

    @property
    def handle(self) -> Callable[[ServiceCore, Event], Awaitable[Outcome]]:
        """Replaces ServiceCore.handle."""

        async def handle(core: ServiceCore, event: Event) -> Outcome:
            outcome = await self._really(core, event)
            if isinstance(event, IncomingMessage):
                self.at.setdefault(event.message_id, time.time())
            return outcome

        return handle


@dataclass(frozen=True, slots=True)
class ServingParameters:
    """Parameters of the service's process.

    `port` and `authority` are those of a fake Discord; `loads`: directory of a model to load repeatedly; `model`: a
    model that answers; `at_once` and `tokens`: most running answers, and the length of each.
    """

    root: str
    questions: list[str]
    settings: dict[str, str]
    port: int = 0
    authority: str = ""
    loads: str = ""
    model: str = ""
    at_once: int = CHANNELS
    tokens: int = TOKENS


def adapter_for(settings: Settings, parameters: ServingParameters) -> Adapter:
    """The adapter of the platform whose tokens are set."""
    if settings.slack_bot_token is not None:
        return SlackAdapter(settings)
    trusted = ssl.create_default_context(cafile=parameters.authority)
    return DiscordAdapter(
        settings, lambda: aiohttp.TCPConnector(limit=0, resolver=Loopback(parameters.port), ssl=trusted)
    )


def scripted(parameters: ServingParameters, pace: Pace) -> ScriptedEngine:
    """An engine that answers every question with `tokens` words."""
    engine = ScriptedEngine(pace.passing, max_running=parameters.at_once)
    answer = " ".join(f"word{number}" for number in range(parameters.tokens))
    for question in parameters.questions:
        engine.answers(question, answer)
    return engine


async def keep_loading(path: str) -> None:
    """Loads a model again and again."""
    while True:
        engine = EngineProcess()
        try:
            await engine.load(ModelSource("bench", path, device="cpu"), unseen)
        finally:
            await engine.close()


async def serve(parameters: ServingParameters) -> dict[str, object]:
    """Serves until stdin ends; the measurements."""
    chosen = {"model": parameters.model, "models": parameters.model, "device": "cpu"} if parameters.model else {}
    settings = make_settings(
        Path(parameters.root),
        per_user=100,
        queue_size=1000,
        max_tokens=parameters.tokens,
        **chosen,
        **parameters.settings,
    )
    pace, lag, stored = Pace(), Lag(), Stored()
    engine = EngineProcess() if parameters.model else scripted(parameters, pace)
    service = Service(settings, Catalog.of(settings), [adapter_for(settings, parameters)], engine)
    meanwhile = [asyncio.create_task(lag.watch())]
    if parameters.loads:
        meanwhile.append(asyncio.create_task(keep_loading(parameters.loads)))
    with (
        patch("bot.models.installed_models.probe", return_value=MACHINE),
        patch.object(ServiceCore, "handle", stored.handle),
    ):
        running = asyncio.create_task(service.run())
        await asyncio.to_thread(sys.stdin.read)
        for task in meanwhile:
            task.cancel()
        await asyncio.gather(*meanwhile, return_exceptions=True)
        service.stop()
        await running
    lag.seen.sort()
    return {
        "begun": pace.begun,
        "ended": pace.ended,
        "stored": stored.at,
        "lag": [lag.seen[int(len(lag.seen) * 0.999)], lag.seen[-1]],
    }


if __name__ == "__main__":
    gc.freeze()  # as `inhouse run` does
    print(json.dumps(asyncio.run(serve(ServingParameters(**json.loads(sys.argv[1]))))))
