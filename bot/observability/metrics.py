"""Count latencies, tokens, model loads and failures in memory, for `bot.web` to show.

Holds no message text and no user ids.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector

from bot.types.messages import FinishReason, GenerationRequest, Usage

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""Histogram buckets of user-visible latencies, seconds."""

LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

KEPT = 200
"""Number of individual delays that are kept."""


@dataclass(frozen=True, slots=True)
class Delay:
    """One time to first token. seconds: the delay; at: when it was measured, on the monotonic clock."""

    at: float
    seconds: float


@dataclass(slots=True)
class Totals:
    """Counts since the start. platform_errors: by platform and kind; loads: by model and whether it succeeded.

    delivery_retries, answers_dropped: by platform.
    """

    answers: Counter[FinishReason] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    loads: Counter[tuple[str, bool]] = field(default_factory=Counter)
    platform_errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    delivery_retries: Counter[str] = field(default_factory=Counter)
    answers_dropped: Counter[str] = field(default_factory=Counter)

    @property
    def cached_share(self) -> float:
        """The share of all prompt tokens that came from the prefix cache, 0 to 1."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


class Metrics:
    """The metrics of one service. clock: monotonic clock; now: wall clock.

    `registry` holds the histograms and prometheus-client's process metrics.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time) -> None:
        self._clock, self._now = clock, now
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time and open files, under their standard names
        self.totals = Totals()
        self.delays: deque[Delay] = deque(maxlen=KEPT)
        """Times to first token, oldest first."""
        self._waiting = self._histogram("waiting", "From a question to the start of its answer", SECONDS)
        self._first = self._histogram("first_token", "From a question to the first words of its answer", SECONDS)
        self._lag = self._histogram("event_loop_lag", "How late the event loop wakes up", LAG_SECONDS)

    def started(self, request: GenerationRequest) -> None:
        """Record the start of an answer and its queue time; ignores second attempts."""
        if not request.attempts:
            self._waiting.observe(self._since(request))

    def first_words(self, request: GenerationRequest) -> None:
        """Record the time to first token of an answer."""
        seconds = self._since(request)
        self._first.observe(seconds)
        self.delays.append(Delay(self._clock(), seconds))

    def ended(self, reason: FinishReason, usage: Usage | None = None) -> None:
        """Record the end of an answer and its tokens."""
        totals = self.totals
        totals.answers[reason] += 1
        if usage is not None:
            totals.prompt_tokens += usage.prompt_tokens
            totals.cached_tokens += usage.cached_tokens
            totals.generated_tokens += usage.generated_tokens

    def load_ended(self, model: str, *, loaded: bool) -> None:
        """Record a model load and its outcome."""
        self.totals.loads[model, loaded] += 1

    def platform_failed(self, platform: str, kind: str) -> None:
        """Record a failed call to a platform. kind: the failure in one or two words."""
        self.totals.platform_errors[platform, kind] += 1

    def delivery_failed(self, platform: str) -> None:
        """Record a failed attempt to show an answer, which is repeated."""
        self.totals.delivery_retries[platform] += 1

    def answer_dropped(self, platform: str) -> None:
        """Record an answer that cannot be shown."""
        self.totals.answers_dropped[platform] += 1

    def loop_was_late(self, seconds: float) -> None:
        """Record a lag of the event loop."""
        self._lag.observe(seconds)

    def _since(self, request: GenerationRequest) -> float:
        return max(0.0, self._now() - request.accepted_at)  # the clock may have been set back

    def _histogram(self, name: str, what: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"inhouse_{name}_seconds", f"{what}, in seconds", buckets=bounds, registry=self.registry)
