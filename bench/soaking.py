"""The service of `bench.soak` in a separate process: both adapters, storage, and an engine that dies at intervals.

Takes `SoakParameters` as JSON. Prints a line of JSON at intervals with the process's memory, descriptors and event loop
lag. Stops at the end of stdin, as at SIGTERM.
"""

import asyncio
import json
import ssl
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import aiohttp
import psutil

from adapters.discord.adapter import DiscordAdapter
from adapters.slack.adapter import SlackAdapter
from bench.serving import Lag
from bot.models.catalog import Catalog
from bot.service.service import Service
from bot.types.engine import EngineRequest
from bot.types.messages import TokenDelta
from tests.support.builders.service import MACHINE, make_settings
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.tls import Loopback

PREFILL_S, TOKEN_S = 0.3, 0.03
AT_ONCE = 8
SAMPLE_S = 15.0


@dataclass(frozen=True, slots=True)
class SoakParameters:
    """Parameters of the process. `port` and `authority` are those of the fake Discord; the engine dies every
    `dies_s` seconds."""

    root: str
    settings: dict[str, str]
    port: int
    authority: str
    dies_s: float


async def pace(point: str) -> None:
    """Sleeps as long as an engine would compute."""
    number = point.rpartition("/")[2]
    if number.isdecimal():
        await asyncio.sleep(TOKEN_S if int(number) else PREFILL_S)


class MortalEngine(ScriptedEngine):
    """Echoes the question, keeps no record of requests, and dies at intervals."""

    async def stream(self, request: EngineRequest) -> AsyncGenerator[TokenDelta, None]:
        """Streams as scripted, then clears the record."""
        async for delta in super().stream(request):
            yield delta
        self.asked.clear()

    async def keep_dying(self, seconds: float) -> None:
        """Dies every `seconds` seconds."""
        while True:
            await asyncio.sleep(seconds)
            self.die()


async def report(service: Service, lag: Lag) -> None:
    """Prints samples forever."""
    process, began = psutil.Process(), time.monotonic()
    while True:
        await asyncio.sleep(SAMPLE_S)
        seen, lag.seen = sorted(lag.seen), []
        sample = {
            "at_s": time.monotonic() - began,
            "resident_mb": process.memory_info().rss / 1e6,
            "descriptors": process.num_fds(),
            "lag_s": seen[-1],
            "lag_999_s": seen[int(len(seen) * 0.999)],
        }
        print(json.dumps(sample), flush=True)


async def serve(parameters: SoakParameters) -> None:
    """Serves until stdin ends."""
    settings = make_settings(Path(parameters.root), per_user=100, queue_size=1000, **parameters.settings)
    trusted = ssl.create_default_context(cafile=parameters.authority)
    discord = DiscordAdapter(settings, lambda: aiohttp.TCPConnector(resolver=Loopback(parameters.port), ssl=trusted))
    engine, lag = MortalEngine(pace, max_running=AT_ONCE), Lag()
    service = Service(settings, Catalog.of(settings), [discord, SlackAdapter(settings)], engine)
    with patch("bot.models.installed_models.probe", return_value=MACHINE):
        running = asyncio.create_task(service.run())
        meanwhile = [lag.watch(), report(service, lag), engine.keep_dying(parameters.dies_s)]
        tasks = [asyncio.create_task(each) for each in meanwhile]
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait([running, ended], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        service.stop()
        await running


if __name__ == "__main__":
    asyncio.run(serve(SoakParameters(**json.loads(sys.argv[1]))))
