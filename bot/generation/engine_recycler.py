"""An engine that ails while it has nothing to do is replaced then, and not when somebody waits for an answer.

In: what the engine says of itself (`ailing`). Out: a renewal, by the worker, which owns the engine.
"""

import asyncio

from bot.generation.worker import Worker
from bot.types.engine import Engine

LEAST_S = 60.0
"""Seconds between two renewals: an engine that always ends again is not loaded all the time."""


async def keep_well(engine: Engine, worker: Worker) -> None:
    """Renew it whenever that is due, for ever."""
    while True:
        if await worker.renew(await engine.ailing()):
            await asyncio.sleep(LEAST_S)
