"""Sample the service every two seconds and keep ten minutes of samples, so that a new page shows a history.

Also keeps the engine's latest statistics. At most one request for them is pending: the next one is sent only after the
engine has answered.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from bot.platforms.instrumented_adapter import KINDS
from bot.types.engine import EngineStats
from bot.types.errors import EngineError, Gone, NoServer
from bot.web.live_state import LiveState

ENDED = "the engine's process ended; the next question restarts it"
NO_SERVER = "no server of the model can be used"

log = logging.getLogger(__name__)

TICK_S = 2.0
KEPT = 300
ANSWER_S = 2.0
"""How long one sample waits for the engine's answer, seconds."""
SILENT_S = 60.0
"""An engine that has not answered for this time is reported as not ready, seconds."""
LAG_S = 0.25
"""Interval of the measurements of the event loop's lag, seconds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample. at: Unix seconds. first_words_s: the longest time to first token since the previous sample, None if
    no answer began. lag_s: the largest lag of the event loop since then."""

    at: float
    tokens_per_s: float
    writing: int
    waiting: int
    first_words_s: float | None
    lag_s: float


@dataclass(frozen=True, slots=True)
class _Counts:
    """Counters at one sample. at: monotonic clock; refused: calls that each platform refused."""

    at: float
    restarts: int
    refused: Mapping[str, int]


class Sampler:
    """Takes samples between `open` and `close`. tick_s: seconds between two samples."""

    def __init__(self, live_state: LiveState, tick_s: float) -> None:
        self._live_state, self._tick_s = live_state, tick_s
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self._counts: deque[_Counts] = deque(maxlen=KEPT)
        self.stats: EngineStats | None = None
        """The engine's latest statistics; None while it does not run."""
        self._problem = ""  # why the last request got no statistics although a model is loaded
        self._asked_at: float | None = None  # start of the pending request, monotonic clock
        self._fetching: asyncio.Task[None] | None = None
        self._lag_s = 0.0
        self._seen = float("-inf")  # monotonic time of the newest delay that a sample includes
        self._next = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Start the background tasks."""
        self._tasks = [
            asyncio.create_task(self._keep_sampling(), name="samples"),
            asyncio.create_task(self._keep_measuring(), name="event loop lag"),
        ]

    async def close(self) -> None:
        """Stop the background tasks and wake all callers of `next`."""
        tasks = [*self._tasks, *filter(None, [self._fetching])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._next.set()

    @property
    def engine_problem(self) -> str:
        """The engine's problem as a phrase without a full stop; '' if there is none."""
        if self._problem:
            return self._problem
        silent_s = time.monotonic() - self._asked_at if self._asked_at is not None else 0.0
        return f"the engine has not answered for {silent_s:.0f} s" if silent_s > SILENT_S else ""

    def restarts_within(self, seconds: float) -> int:
        """The number of restarts of the engine within the last `seconds`, at most those since the first sample kept."""
        before, now = self._counts_since(seconds)
        return now.restarts - before.restarts

    def refused_within(self, platform: str, seconds: float) -> int:
        """The number of calls that a platform refused within the last `seconds`."""
        before, now = self._counts_since(seconds)
        return now.refused.get(platform, 0) - before.refused.get(platform, 0)

    async def next(self) -> None:
        """Wait until the next sample is taken."""
        await self._next.wait()

    async def refresh(self) -> None:
        """Refresh the engine's statistics; waits at most ANSWER_S for them."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch_stats(), name="engine stats")
        await asyncio.wait([self._fetching], timeout=ANSWER_S)

    async def _fetch_stats(self) -> None:
        loaded = self._live_state.worker.loader.loaded
        if loaded is None:
            self.stats, self._problem = None, ""
            return
        self._asked_at = time.monotonic()
        try:
            self.stats, self._problem = await self._live_state.engine.stats(), ""
        except EngineError as error:
            still = self._live_state.worker.loader.loaded is loaded
            self.stats, self._problem = None, (NO_SERVER if isinstance(error, NoServer) else ENDED) if still else ""
        finally:
            self._asked_at = None

    async def _keep_sampling(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self.refresh()
                self.samples.append(self._sample())
            except Exception:  # must not end the service; the page itself shows when updates stop
                log.exception("The status page can no longer be updated")
                return
            signalled, self._next = self._next, asyncio.Event()
            signalled.set()
            await asyncio.sleep(max(0.0, self._tick_s - (time.monotonic() - began)))

    def _counts_since(self, seconds: float) -> tuple[_Counts, _Counts]:
        """The counters at the last sample before that time (else at the first one), and now."""
        now = self._count()
        earlier = [each for each in self._counts if each.at <= now.at - seconds]
        return (earlier[-1] if earlier else self._counts[0] if self._counts else now), now

    def _count(self) -> _Counts:
        refused: Counter[str] = Counter()
        for (platform, kind), count in self._live_state.metrics.totals.platform_errors.items():
            if kind != KINDS[Gone]:  # people may delete their messages
                refused[platform] += count
        return _Counts(time.monotonic(), self._live_state.worker.loader.losses, refused)

    def _sample(self) -> Sample:
        queue, metrics = self._live_state.queue, self._live_state.metrics
        self._counts.append(self._count())
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
            self._live_state.metrics.loop_was_late(late)
            self._lag_s = max(self._lag_s, late)
