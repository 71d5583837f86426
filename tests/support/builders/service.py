"""Builds a whole service with a scripted platform and a scripted engine.

The catalog has four models, which are directories with dummy files: `small` (the default), `large`, `broken`, and
`huge`, which does not fit.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bot.config.settings import Settings
from bot.generation.model_loader import Loader
from bot.models.catalog import Catalog
from bot.models.hardware import Hardware
from bot.platforms.adapter import Limits
from bot.service.service import Service
from bot.web.live_state import LiveState
from tests.support.builders.databases import CHOSEN
from tests.support.fakes.scripted_adapter import LIMITS, ScriptedAdapter
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.fakes.team import Team

MACHINE = Hardware("", "", 0, 0, False, "a CPU", 2, 16_000, 8_000, "this build of torch has no CUDA")
PARAMETERS = {"small": 10_000_000, "large": 1_000_000_000, "broken": 10_000_000, "huge": 900_000_000_000}


def make_settings(root: Path, **more: Any) -> Settings:  # Any: values of settings
    """Settings of a service in `root`, and the models that it finds there."""
    lines = []
    for name, parameters in PARAMETERS.items():
        folder = root / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("config.json", "tokenizer.json"):
            (folder / file).write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        lines.append(f'[[model]]\nname = "{name}"\npath = "models/{name}"\nparameters = {parameters}\n')
    (root / "catalog.toml").write_text("".join(lines))
    values = {
        "state_dir": root / "state",
        "database_url": CHOSEN.url(root / "state"),
        "cache_dir": root / "cache",
        "catalog": root / "catalog.toml",
        "models": ",".join(PARAMETERS),
        "model": "small",
        "drain": 1,
        "retention": 0,  # the scripted platform's clock starts in 1970
        "http": "off",
    }
    return Settings(**{**values, **more})


@dataclass(slots=True)
class ServiceSetup:
    """A running service, its platform and its engine."""

    team: Team
    platform: ScriptedPlatform
    engine: ScriptedEngine
    adapter: ScriptedAdapter
    service: Service
    settings: Settings
    running: asyncio.Task[None]

    @property
    def loader(self) -> Loader:
        """The service's model loader."""
        return self.live_state.worker.loader

    @property
    def live_state(self) -> LiveState:
        """What the service's page reads."""
        assert self.service.web is not None
        return self.service.web.live_state

    async def stop(self) -> None:
        """Stops the service as SIGTERM does. Raises what its run raised."""
        self.service.stop()
        async with asyncio.timeout(20):
            await self.running


@asynccontextmanager
async def run_service(
    root: Path,
    platform: ScriptedPlatform | None = None,
    *,
    limits: Limits = LIMITS,
    engine: ScriptedEngine | None = None,
    ready: bool = True,
    platform_name: str = "scripted",
    **settings: Any,  # Any: values of settings
) -> AsyncIterator[ServiceSetup]:
    """Runs a service in `root`; a second call with the same root and ScriptedPlatform finds the stored state again.

    If `ready`, waits until it is connected and a model is loaded.
    """
    if platform is None:
        async with (
            ScriptedPlatform() as platform,
            run_service(
                root, platform, limits=limits, engine=engine, ready=ready, platform_name=platform_name, **settings
            ) as setup,
        ):
            yield setup
        return
    made = make_settings(root, **settings)
    engine = engine or ScriptedEngine(platform.gates.passing)
    adapter = ScriptedAdapter(platform.port, platform_name, limits)
    service = Service(made, Catalog.of(made), [adapter], engine)
    with patch("bot.models.installed_models.probe", return_value=MACHINE):
        setup = ServiceSetup(
            Team.of(platform),
            platform,
            engine,
            adapter,
            service,
            made,
            asyncio.create_task(service.run(), name="service"),
        )
        try:
            if ready:
                await platform.connected()
                await platform.until(lambda: bool(engine.loaded), "the model is loaded")
            yield setup
        finally:
            service.stop()
            service.stop()
            async with asyncio.timeout(20):
                await asyncio.gather(setup.running, return_exceptions=True)
    assert setup.running.exception() is None or not ready
