"""Holds the state of one generation in the engine process: token ids in, text and usage out.

An Answer is created once its prompt is built. It belongs to one generator (batched or sequential), which pushes tokens
into it.
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
    """Measures tokens per second over the last ten seconds."""

    SECONDS = 10.0

    def __init__(self) -> None:
        self._made: deque[tuple[float, int]] = deque()

    def add(self, count: int, at: float) -> None:
        """Count tokens produced at perf_counter time `at`."""
        self._made.append((at, count))
        while self._made[0][0] < at - self.SECONDS:
            self._made.popleft()

    def rate(self) -> float:
        """Return the current rate in tokens per second; safe from any thread."""
        start = perf_counter() - self.SECONDS
        return sum(count for at, count in tuple(self._made) if at >= start) / self.SECONDS


@dataclass(slots=True)
class Answer:
    """State of one generation. Times are perf_counter seconds; 0 means not yet."""

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
    thought: int = 0
    """Number of tokens that belong to thoughts, while there is a budget for them."""
    aborted: bool = False
    ended: bool = False
    retried: bool = False

    @property
    def left(self) -> int:
        """How many more tokens may be generated."""
        return self.params.most_tokens - len(self.tokens)

    def push(self, tokens: Sequence[int], at: float) -> Text | None:
        """Add newly generated tokens and return a delta of the text and the thoughts that are now final, if any."""
        if not tokens:
            return None
        self.first_at = self.first_at or at
        self.last_at = at
        self.meter.add(len(tokens), at)
        return self._delta(self._text_within_budget(tokens) if self.params.think_tokens else self._text_of(tokens))

    def _text_of(self, tokens: Sequence[int]) -> str:
        self.tokens.extend(tokens)
        return self.decoder.push(tokens[:-1] if tokens[-1] in self.eos else tokens)

    def _text_within_budget(self, tokens: Sequence[int]) -> str:
        """Count each token for thoughts or text; drops those after max_tokens of text."""
        text = ""
        for token in tokens:
            if self._text_ended:
                break
            text += self._text_of([token])
            self.thought += self.decoder.thinking
        return text

    @property
    def _text_ended(self) -> bool:
        return len(self.tokens) - self.thought >= self.params.max_tokens and not self.decoder.thinking

    def reason(self) -> FinishReason | None:
        """Return the finish reason, or None if generation should continue."""
        if self.decoder.stopped or (self.tokens and self.tokens[-1] in self.eos):
            return FinishReason.STOP
        return FinishReason.LENGTH if self.left <= 0 or self._text_ended else None

    def _delta(self, text: str) -> Text | None:
        reasoning = self.decoder.take_reasoning()
        return Text(self.stream, text, reasoning=reasoning) if text or reasoning else None

    def end(self, delta: Text | None, reason: FinishReason) -> Text:
        """Build the last delta: what is in `delta`, the decoder's pending text and thoughts, and usage."""
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
            dropped_pictures=self.prompt.dropped_pictures,
        )
        text, reasoning = (delta.text, delta.reasoning) if delta is not None else ("", "")
        text += self.decoder.flush()
        return Text(self.stream, text, reason, usage, reasoning + self.decoder.take_reasoning())


def abort_waiting(waiting: deque[Answer], stream: int, emit: Emit) -> bool:
    """End an answer that waits for its turn; False if it does not."""
    answer = next((answer for answer in waiting if answer.stream == stream), None)
    if answer is None:
        return False
    waiting.remove(answer)
    emit(answer.end(None, FinishReason.ABORT))
    return True


class Generator(Protocol):
    """A way to generate.

    Methods run on the engine's main thread, or on the load thread while the main thread waits for it. `running` and
    `blocks` are safe from any thread.
    """

    @property
    def seeds(self) -> bool:
        """Whether a seed makes an answer repeatable."""
        ...

    @property
    def max_running(self) -> int:
        """Most answers generated at the same time."""
        ...

    @property
    def cache_tokens(self) -> int | None:
        """Capacity of the KV cache in tokens; None if it has no limit of its own."""
        ...

    @property
    def offload_mb(self) -> int:
        """Most RAM (MB) for blocks evicted from a GPU's KV cache."""
        ...

    @property
    def offloaded_mb(self) -> int:
        """RAM (MB) allocated so far for blocks evicted from a GPU's KV cache."""
        ...

    @property
    def running(self) -> int:
        """Number of answers that generate or wait."""
        ...

    def submit(self, answer: Answer) -> None:
        """Queue an answer; `emit` receives its deltas."""
        ...

    def abort(self, stream: int) -> None:
        """Stop an answer at the next step boundary; an unknown stream is ignored."""
        ...

    def blocks(self) -> tuple[int, int]:
        """(free, total) blocks of the KV cache; (0, 0) if it has no blocks."""
        ...

    def close(self) -> None:
        """Stop immediately; running answers get no more deltas."""
        ...
