"""Defines the Batch protocol: many answers generated together on one device.

bot.engine.batching.row_batch implements it with our own code, bot.engine.gpu.paged_batch with transformers' continuous
batching; bot.engine.server.batched_generator drives both. Callers must validate requests first. Events go to a Listener
on the batch's own thread, so listeners should only forward them. A failed batch is replaced, not repaired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from bot.models.device_errors import Failure, Unrecoverable
from bot.types.messages import SamplingParams

MAX_RUNNING = 16
FIRST_CHUNK = 32
LARGEST_CHUNK = 512


class CannotBatch(Exception):
    """The model cannot run in a batch; the text says why."""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """Output of a step for one request. finished: these are its last tokens. failed: the reason, if it failed."""

    key: str
    tokens: Sequence[int]
    finished: bool = False
    failed: str = ""


class Batch(Protocol):
    """A running batch. Its cache is counted in blocks; a request may only be added if all of it fits the cache."""

    listener: "Listener"

    @property
    def max_running(self) -> int:
        """Most requests at once."""
        ...

    @property
    def cache_blocks(self) -> int:
        """Number of blocks in the cache."""
        ...

    @property
    def cache_tokens(self) -> int:
        """Capacity of the cache in tokens, for a single conversation."""
        ...

    def blocks_for(self, tokens: int) -> int:
        """Return the most blocks that so many tokens of one request take."""
        ...

    @property
    def offload_mb(self) -> int:
        """Most RAM (MB) for evicted blocks."""
        ...

    @property
    def offloaded_mb(self) -> int:
        """RAM (MB) allocated so far for evicted blocks; safe from any thread."""
        ...

    def blocks(self) -> tuple[int, int]:
        """(free, total) blocks, those kept only for reuse being free; (0, 0) after stop(). Safe from any thread."""
        ...

    def add(self, key: str, ids: Sequence[int], max_tokens: int, eos: Sequence[int], params: SamplingParams) -> bool:
        """Start a request under a key never used before. Returns False if the batch has failed."""
        ...

    def cancel(self, key: str) -> None:
        """Stop a request before the next step; `on_cancelled` follows, unless it finished first."""
        ...

    def has_failed(self) -> bool:
        """Whether it accepts no more requests."""
        ...

    def take_failure(self) -> Failure:
        """Return why the batch failed. Drops the exception, whose traceback keeps the step's tensors alive."""
        ...

    def stop(self) -> None:
        """Stop the thread and free the cache."""
        ...


class Listener(Protocol):
    """Receives the events of a batch, on the batch's thread."""

    def on_step(self, batch: Batch, made: Sequence[RequestOutput], at: float) -> None:
        """A step produced new tokens for these requests (or they failed), at perf_counter time `at`."""

    def on_start(self, batch: Batch, key: str, cached: int, at: float) -> None:
        """A request's prefill begins; `cached` tokens of its prompt were found in the cache."""

    def on_cancelled(self, batch: Batch, keys: list[str]) -> None:
        """Cancelled requests have left the batch and their blocks are free."""


def try_out(batch: Batch, vocabulary: int) -> None:
    """Run two short prompts, to detect what cannot run, warm up kernels and measure the speed.

    Raises CannotBatch, MemoryError or Unrecoverable.
    """
    _try(batch, vocabulary, (4, FIRST_CHUNK), tokens=4)


def probe(batch: Batch, vocabulary: int) -> None:
    """Generate one token, to check that anything can be generated at all. Raises as try_out."""
    _try(batch, vocabulary, (1,), tokens=1)


def _try(batch: Batch, vocabulary: int, lengths: Sequence[int], tokens: int) -> None:
    trial = TrialListener()
    kept, batch.listener = batch.listener, trial
    greedy = SamplingParams(temperature=0.0, repetition_penalty=1.0)
    for length in lengths:
        ids = [(7 * place + length) % vocabulary for place in range(length)]
        if not batch.add(f"try {length}", ids, tokens, (), greedy):
            raise as_exception(batch.take_failure())
        while not (made := trial.made.get()).finished:
            if made.failed:
                raise as_exception(batch.take_failure())
    batch.listener = kept


def as_exception(failure: Failure) -> Exception:
    """Translate the failure of a trial to MemoryError, Unrecoverable or CannotBatch."""
    if failure.memory:
        return MemoryError(failure.why)
    return (Unrecoverable if failure.device_lost else CannotBatch)(failure.why)


class TrialListener:
    """Listener during a trial run."""

    def __init__(self) -> None:
        self.made: SimpleQueue[RequestOutput] = SimpleQueue()

    def on_step(self, batch: Batch, made: Sequence[RequestOutput], at: float) -> None:
        for each in made:
            self.made.put(each)

    def on_start(self, batch: Batch, key: str, cached: int, at: float) -> None:
        return None

    def on_cancelled(self, batch: Batch, keys: list[str]) -> None:
        return None
