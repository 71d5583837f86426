"""How it goes, sampled every two seconds and remembered for ten minutes, so that a page shows a past at once.

In: the live parts. Out: a ring of samples, the engine's newest figures, and a signal for every new sample. The engine
is asked one question at a time: one that does not answer is not asked again before it did.
"""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass

from bot.types.engine import EngineStats
from bot.types.errors import EngineError
from bot.web.live_state import Sources

ENDED = "the engine's process ended; the next question starts it again"

log = logging.getLogger(__name__)

TICK_S = 2.0
KEPT = 300
ANSWER_S = 2.0
"""How long the engine's answer is waited for."""
SILENT_S = 60.0
"""An engine that has not answered for so long hangs."""
LAG_S = 0.25
"""How often the event loop's punctuality is measured."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment. at: Unix seconds. first_words_s: the longest wait for first words since the sample before, if any
    answer began. lag_s: the latest that the event loop woke up since then."""

    at: float
    tokens_per_s: float
    writing: int
    waiting: int
    first_words_s: float | None
    lag_s: float


class Sampler:
    """Samples while it is open. `tick_s`: seconds between two samples."""

    def __init__(self, sources: Sources, tick_s: float) -> None:
        self._sources, self._tick_s = sources, tick_s
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self.stats: EngineStats | None = None
        """What the engine said last; None while it does not run."""
        self._ended = False  # the engine, asked last, did not run although a model should be loaded
        self._asked_at: float | None = None  # since when its answer is waited for
        self._asking: asyncio.Task[None] | None = None
        self._lag_s = 0.0
        self._seen = float("-inf")  # when the newest delay was that a sample has
        self._next = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to sample."""
        self._tasks = [
            asyncio.create_task(self._keep_sampling(), name="samples"),
            asyncio.create_task(self._keep_measuring(), name="event loop lag"),
        ]

    async def close(self) -> None:
        """Stop; whoever waits for a sample goes on at once."""
        tasks = [*self._tasks, *filter(None, [self._asking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._next.set()

    @property
    def engine_trouble(self) -> str:
        """What is wrong with the engine, in a few words without a full stop; '' if nothing is."""
        if self._ended:
            return ENDED
        silent_s = time.monotonic() - self._asked_at if self._asked_at is not None else 0.0
        return f"the engine has not answered for {silent_s:.0f} s" if silent_s > SILENT_S else ""

    async def next(self) -> None:
        """Wait for the next sample."""
        await self._next.wait()

    async def look(self) -> None:
        """Ask the engine how it is, and wait for its answer, but not for long."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="engine stats")
        await asyncio.wait([self._asking], timeout=ANSWER_S)

    async def _ask(self) -> None:
        loaded = self._sources.worker.loader.loaded
        if loaded is None:
            self.stats, self._ended = None, False
            return
        self._asked_at = time.monotonic()
        try:
            self.stats, self._ended = await self._sources.engine.stats(), False
        except EngineError:
            self.stats, self._ended = None, self._sources.worker.loader.loaded is loaded
        finally:
            self._asked_at = None

    async def _keep_sampling(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self.look()
                self.samples.append(self._sample())
            except Exception:  # it must not end what it watches, and a page that stands still says so itself
                log.exception("The status page could not be brought up to date and stands still")
                return
            signalled, self._next = self._next, asyncio.Event()
            signalled.set()
            await asyncio.sleep(max(0.0, self._tick_s - (time.monotonic() - began)))

    def _sample(self) -> Sample:
        queue, metrics = self._sources.queue, self._sources.metrics
        fresh = [delay for delay in metrics.delays if delay.at > self._seen]
        if fresh:
            self._seen = fresh[-1].at
        lag, self._lag_s = self._lag_s, 0.0
        return Sample(
            at=time.time(),
            tokens_per_s=self.stats.tokens_per_s if self.stats else 0.0,
            writing=len(queue.running()),
            waiting=len(queue.waiting()),
            first_words_s=max((delay.seconds for delay in fresh), default=None),
            lag_s=lag,
        )

    async def _keep_measuring(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LAG_S
            await asyncio.sleep(LAG_S)
            late = max(0.0, clock() - due)
            self._sources.metrics.loop_was_late(late)
            self._lag_s = max(self._lag_s, late)
