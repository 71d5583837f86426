"""Restarts an unhealthy engine while it is idle, before a user waits for an answer."""

import asyncio

from bot.generation.worker import Worker
from bot.types.engine import Engine

LEAST_S = 60.0
"""Minimum seconds between restarts, so that an engine that exits repeatedly is not reloaded in a tight loop."""


async def restart_when_unhealthy(engine: Engine, worker: Worker) -> None:
    """Restart the engine whenever it reports itself unhealthy; runs until cancelled."""
    while True:
        if await worker.restart_engine(await engine.wait_until_unhealthy()):
            await asyncio.sleep(LEAST_S)
