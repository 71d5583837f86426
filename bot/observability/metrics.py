"""What is counted while the service runs: how long people wait, what answers cost, what went wrong.

In: one call where each thing happens. Out: plain counts and histograms, from memory, for whoever shows them
(`bot.web`). Nothing here knows a text or a person.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector

from bot.types.messages import FinishReason, GenerationRequest, Usage

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""Bounds for what people wait for."""

LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

KEPT = 200
"""Measured times that are kept one by one."""


@dataclass(frozen=True, slots=True)
class Delay:
    """How long somebody waited for the first words of an answer, in seconds, and when (on the monotonic clock)."""

    at: float
    seconds: float


@dataclass(slots=True)
class Totals:
    """Counts since the start. platform_errors is by platform and kind, loads by model and whether it was loaded."""

    answers: Counter[FinishReason] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    loads: Counter[tuple[str, bool]] = field(default_factory=Counter)
    platform_errors: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def cached_share(self) -> float:
        """The part of all prompts that was read from the cache, 0 to 1."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


class Metrics:
    """One service's counts. `clock` is the monotonic clock and `now` the wall clock.

    `registry` holds the histograms and what is known of this process.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time) -> None:
        self._clock, self._now = clock, now
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time, open files, by the names that everybody uses
        self.totals = Totals()
        self.delays: deque[Delay] = deque(maxlen=KEPT)
        """Times to the first words, oldest first."""
        self._waiting = self._histogram("waiting", "From a question to the start of its answer", SECONDS)
        self._first = self._histogram("first_token", "From a question to the first words of its answer", SECONDS)
        self._lag = self._histogram("event_loop_lag", "How late the event loop wakes up", LAG_SECONDS)

    def started(self, request: GenerationRequest) -> None:
        """An answer is begun; a second attempt does not count as waiting."""
        if not request.attempts:
            self._waiting.observe(self._since(request))

    def first_words(self, request: GenerationRequest) -> None:
        """An answer has its first words."""
        seconds = self._since(request)
        self._first.observe(seconds)
        self.delays.append(Delay(self._clock(), seconds))

    def ended(self, reason: FinishReason, usage: Usage | None = None) -> None:
        """An answer has its end."""
        totals = self.totals
        totals.answers[reason] += 1
        if usage is not None:
            totals.prompt_tokens += usage.prompt_tokens
            totals.cached_tokens += usage.cached_tokens
            totals.generated_tokens += usage.generated_tokens

    def load_ended(self, model: str, *, loaded: bool) -> None:
        """A model was loaded, or could not be."""
        self.totals.loads[model, loaded] += 1

    def platform_failed(self, platform: str, kind: str) -> None:
        """A platform did not do what it was asked; `kind` says how it failed in a word or two."""
        self.totals.platform_errors[platform, kind] += 1

    def loop_was_late(self, seconds: float) -> None:
        """The event loop woke up so late."""
        self._lag.observe(seconds)

    def _since(self, request: GenerationRequest) -> float:
        return max(0.0, self._now() - request.accepted_at)  # the clock may have been set back

    def _histogram(self, name: str, what: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"inhouse_{name}_seconds", f"{what}, in seconds", buckets=bounds, registry=self.registry)
