"""One generation in the engine's process: token ids in, text and usage out.

An `Answer` is made from a request once its prompt is known, and belongs to one of the two ways of generating (batching,
sequential), which push tokens into it. It knows nothing of how they were made.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from bot.engine.client.protocol import Failed, Text
from bot.engine.text.decoding import TextDecoder
from bot.engine.text.prompts import BuiltPrompt
from bot.types.messages import FinishReason, SamplingParams, Usage

Emit = Callable[[Text | Failed], None]
Post = Callable[[Callable[[], None]], None]


class Meter:
    """Tokens a second, over the last ten seconds."""

    SECONDS = 10.0

    def __init__(self) -> None:
        self._made: deque[tuple[float, int]] = deque()

    def add(self, count: int, at: float) -> None:
        """Count tokens made at perf_counter `at`."""
        self._made.append((at, count))
        while self._made[0][0] < at - self.SECONDS:
            self._made.popleft()

    def rate(self) -> float:
        """Tokens a second until now; safe to call from another thread."""
        start = perf_counter() - self.SECONDS
        return sum(count for at, count in tuple(self._made) if at >= start) / self.SECONDS


@dataclass(slots=True)
class Answer:
    """A generation's state. Times are perf_counter seconds; 0 means not yet."""

    stream: int
    prompt: BuiltPrompt
    params: SamplingParams
    decoder: TextDecoder
    eos: frozenset[int]
    meter: Meter
    asked_at: float = field(default_factory=perf_counter)
    started_at: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0
    cached: int = 0
    tokens: list[int] = field(default_factory=list)
    aborted: bool = False
    ended: bool = False
    retried: bool = False

    @property
    def left(self) -> int:
        """How many tokens may still be generated."""
        return self.params.max_tokens - len(self.tokens)

    def push(self, tokens: Sequence[int], at: float) -> str:
        """Take newly generated tokens; the text that is now certain."""
        if not tokens:
            return ""
        self.first_at = self.first_at or at
        self.last_at = at
        self.tokens.extend(tokens)
        self.meter.add(len(tokens), at)
        spoken = tokens[:-1] if tokens[-1] in self.eos else tokens
        return self.decoder.push(list(spoken))

    def reason(self) -> FinishReason | None:
        """Why no more tokens should be generated; None if more should."""
        if self.decoder.stopped or (self.tokens and self.tokens[-1] in self.eos):
            return FinishReason.STOP
        return FinishReason.LENGTH if self.left <= 0 else None

    def delta(self, text: str) -> Text:
        """A delta in the middle of the answer."""
        return Text(self.stream, text)

    def end(self, text: str, reason: FinishReason) -> Text:
        """The last delta: `text`, what the decoder still held back, and what it all cost."""
        self.ended = True
        now = perf_counter()
        started = self.started_at or now
        usage = Usage(
            prompt_tokens=len(self.prompt.ids),
            cached_tokens=self.cached,
            generated_tokens=len(self.tokens),
            queue_s=max(0.0, started - self.asked_at),
            prefill_s=max(0.0, (self.first_at or now) - started),
            decode_s=max(0.0, self.last_at - self.first_at),
            context_window=self.prompt.window,
            dropped_turns=self.prompt.dropped_turns,
        )
        return Text(self.stream, text + self.decoder.flush(), reason, usage)


class Generator(Protocol):
    """A way of generating. Every method is called on the engine's main thread, or on a load's while that one waits."""

    @property
    def seeds(self) -> bool:
        """Whether a seed makes an answer repeatable."""
        ...

    @property
    def max_running(self) -> int:
        """How many answers are generated at once."""
        ...

    @property
    def cache_tokens(self) -> int | None:
        """Tokens that the KV cache holds; None if it has no bound of its own."""
        ...

    @property
    def offload_mb(self) -> int:
        """RAM that may be filled with what the KV cache of a GPU has no more room for."""
        ...

    @property
    def offloaded_mb(self) -> int:
        """RAM that was filled with what the KV cache of a GPU had no more room for."""
        ...

    @property
    def running(self) -> int:
        """Answers that are generated or wait for room."""
        ...

    def submit(self, answer: Answer) -> None:
        """Generate it, as soon as there is room; `emit` gets its deltas."""
        ...

    def abort(self, stream: int) -> None:
        """End it at the next step boundary; nothing happens if it is not here."""
        ...

    def blocks(self) -> tuple[int, int]:
        """(free, all) blocks of the KV cache; (0, 0) if there is none to count."""
        ...

    def close(self) -> None:
        """Stop at once; what runs gets nothing more."""
        ...
