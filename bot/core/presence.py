"""Provides the status line that platforms show beside the bot's name.

`line` reads memory only; `watch` polls the engine's speed.
"""

import asyncio
from collections.abc import Callable, Sequence

from bot.conversations.request_queue import RequestQueue
from bot.generation.worker import Worker
from bot.types.engine import Engine
from bot.types.errors import EngineError

WATCH_S = 10.0
"""Polling interval in seconds; the engine reports the average speed of the last ten seconds."""


class Presence:
    """Summarizes the loaded model, its speed and the number of waiting requests."""

    def __init__(
        self, queue: RequestQueue, worker: Worker, engine: Engine, elsewhere: Callable[[], Sequence[str]]
    ) -> None:
        """elsewhere: the models that other hosts have loaded."""
        self._queue, self._worker, self._engine, self._elsewhere = queue, worker, engine, elsewhere
        self._speed = 0.0

    def line(self) -> str:
        """Current status line: 'phi-4 · 38 tokens/s · 2 waiting'."""
        loading, loaded = self._worker.loader.loading, self._worker.loader.loaded
        if loading is not None:
            return f"loading {loading.model}, {loading.progress.fraction:.0%}"
        names = [loaded.name] if loaded else list(self._elsewhere())
        if not names:
            return "no model is loaded"
        parts = [", ".join(names)]
        if self._queue.running() and self._speed >= 1:
            parts.append(f"{self._speed:.0f} tokens/s")
        if waiting := len(self._queue.waiting()):
            parts.append(f"{waiting} waiting")
        return " · ".join(parts)

    async def watch(self) -> None:
        """Poll the engine's speed; runs until cancelled."""
        while True:
            try:
                busy = self._worker.loader.loaded is not None and bool(self._queue.running())
                self._speed = (await self._engine.stats()).tokens_per_s if busy else 0.0
            except EngineError:
                self._speed = 0.0
            await asyncio.sleep(WATCH_S)
