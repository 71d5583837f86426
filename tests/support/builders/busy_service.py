"""Builds a service under load for the page's pictures: Discord, phi-4 on a GPU, a queue, ten minutes of samples,
errors.

The state is the same at each run.
"""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from bot.models.hardware import Hardware
from bot.observability.metrics import Metrics
from bot.types.engine import EngineStats, LoadedModel, LoadProgress, ModelSource
from bot.types.messages import FinishReason, Usage
from bot.web.sampler import KEPT, TICK_S, Sample
from tests.support.builders.service import ServiceSetup
from tests.support.builders.web_service import Site, open_page
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.fakes.team import Team

WRITING = ("ana", "ben", "cleo", "dan")
WAITING = ("hugo", "finn", "gus")
MACHINE = Hardware("NVIDIA RTX 6000", "12.8", 49_140, 16_400, True, "AMD EPYC 9354", 16, 128_600, 91_300)

CATALOG = """
[[model]]
name = "phi-4"
path = "models/small"
parameters = 14_700_000_000
"""


class GpuEngine(ScriptedEngine):
    """A scripted engine that reports a GPU."""

    async def load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        """Loads, and reports phi-4 on a GPU."""
        loaded = await super().load(source, progress)
        return replace(
            loaded,
            device="cuda:0",
            dtype="bfloat16",
            context_window=16_384,
            weights_mb=27_970,
            kv_cache_mb=3_280,
            kv_cache_tokens=16_384,
        )

    async def stats(self) -> EngineStats:
        """Reports the memory of a GPU."""
        stats = await super().stats()
        return replace(
            stats, tokens_per_s=38.4, free_blocks=37, resident_mb=2_310, gpu_used_mb=32_700, gpu_total_mb=49_140
        )


@asynccontextmanager
async def run_busy_service(root: Path, tick_s: float = TICK_S) -> AsyncIterator[tuple[ServiceSetup, Site]]:
    """Opens the service and its page with four running answers, three queued requests, and filled plots."""
    catalog = root / "scene.toml"
    catalog.write_text(CATALOG)
    how = {"catalog": catalog, "model": "phi-4", "models": "phi-4", "platform_name": "discord"}
    async with ScriptedPlatform() as platform:
        engine = GpuEngine(platform.gates.passing)
        async with open_page(root, tick_s=tick_s, platform=platform, engine=engine, **how) as (setup, site):
            site.web.live_state.installed_models.hardware = MACHINE
            site.web.live_state.worker.loader.losses = 1
            _count(site.web.live_state.metrics)
            await _talk(setup)
            _log()
            await remember(site)
            yield setup, site


async def _talk(setup: ServiceSetup) -> None:
    for who in ("ivy", "joe"):
        await _team(setup, who).asks(who, f"done for {who}")
    for who in WRITING:
        setup.platform.gates.hold(f"for {who}/2")
        await _team(setup, who).says(who, f"for {who}")
        await setup.platform.gates.reached(f"for {who}/2")
    for who in WAITING:
        await _team(setup, who).says(who, f"for {who}")


def _team(setup: ServiceSetup, who: str) -> Team:
    return setup.team.elsewhere(platform="discord", channel=f"of {who}")


async def remember(site: Site) -> None:
    """Fills the sampler with ten minutes of samples of a small team."""
    await site.web.sampler.refresh()  # otherwise the page could load before the engine's first numbers
    site.web.status.began = time.time() - 19_200
    samples = site.web.sampler.samples
    samples.clear()
    for number in range(KEPT):
        part = 1 - number / KEPT
        busy = max(0.0, math.cos(part * 8.6) + 0.3 * math.sin(part * 31) + 0.25)
        begins = number % 11 == 0 and busy > 0.1
        samples.append(
            Sample(
                at=time.time() - (KEPT - number) * TICK_S,
                tokens_per_s=round(busy * 31 + 2 * math.sin(number * 1.7), 1) if busy > 0.1 else 0.0,
                writing=min(4, math.ceil(busy * 3)),
                waiting=max(0, math.floor((busy - 0.7) * 6)),
                first_words_s=round(0.5 + busy * 1.4 + 0.4 * math.sin(number * 2.3), 2) if begins else None,
                lag_s=0.001,
            )
        )


def _count(metrics: Metrics) -> None:
    """Counts the requests since the start."""
    for number in range(214):
        reason = FinishReason.ABORT if number % 40 == 7 else FinishReason.STOP
        usage = Usage(700 + 13 * number % 900, 500 + 7 * number % 600, 90 + number % 150, 0, 0, 0, 16_384, 0)
        metrics.ended(reason, usage)


def _log() -> None:
    """Logs errors with the real messages of the parts that report them."""
    worker = logging.getLogger("bot.generation.worker")
    worker.error("The engine's process ended. phi-4 is loaded again in a new process.")
    for _ in range(3):
        gateway = logging.getLogger("adapters.discord.gateway.gateway")
        gateway.warning("Disconnected from Discord (%s); reconnecting in %.0f s.", "closed with 1006", 4)
    missing = "Discord does not allow it here (50001: Missing Access)."
    logging.getLogger("bot.replies.delivery").warning("A reply cannot be shown: %s", missing)
    away = "mistral-7b is not downloaded yet; run `inhouse pull mistral-7b`."
    worker.warning("%s Back to %s.", away, "phi-4")


async def finish(setup: ServiceSetup) -> None:
    """Lets all pending answers finish."""
    for who in WRITING:
        await setup.platform.gates.open(f"for {who}/2")
    for who in (*WRITING, *WAITING):
        await _team(setup, who).reply_to(f"for {who}")
