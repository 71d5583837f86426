"""What a batch is: many answers generated together, whichever way the device suits.

`rows.py` has the one of ours (CPU), `paged.py` the library's continuous batching (GPU); `Batching` feeds either. In:
requests that cannot harm it (the callers see to that). Out: events to a Listener, called on the batch's own thread, so
they should only be passed on. A batch that died is not mended; make another.
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
    """This model does not run in a batch; the text says why."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a step made for one request: new tokens, and whether they are its last. failed: why there are none."""

    key: str
    tokens: Sequence[int]
    finished: bool = False
    failed: str = ""


class Batch(Protocol):
    """A running batch. Its cache is counted in blocks; a request may only be added while all of it fits the cache."""

    listener: "Listener"

    @property
    def cache_blocks(self) -> int:
        """How many blocks the cache has."""
        ...

    @property
    def cache_tokens(self) -> int:
        """How many tokens the cache holds, of one conversation."""
        ...

    def blocks_for(self, tokens: int) -> int:
        """Blocks that so many tokens of one request take at most."""
        ...

    @property
    def offload_mb(self) -> int:
        """RAM that it may take for what it has no more room for."""
        ...

    @property
    def offloaded_mb(self) -> int:
        """RAM that what it had no more room for has come to take; from any thread."""
        ...

    def blocks(self) -> tuple[int, int]:
        """(free, all) blocks, those kept only for reuse being free; from any thread, and (0, 0) after stop()."""
        ...

    def add(self, key: str, ids: Sequence[int], max_tokens: int, eos: Sequence[int], params: SamplingParams) -> bool:
        """Start a request under a key never used before; False if the batch is dead."""
        ...

    def cancel(self, key: str) -> None:
        """End a request before the next step; `gone` follows, unless it finished first."""
        ...

    def is_dead(self) -> bool:
        """Whether it takes no more requests."""
        ...

    def take_failure(self) -> Failure:
        """What a dead batch died of. The exception is forgotten here: its traceback holds on to the step's tensors."""
        ...

    def stop(self) -> None:
        """End the thread and let go of the cache."""
        ...


class Listener(Protocol):
    """Who hears of a batch, on the batch's thread."""

    def stepped(self, batch: Batch, made: Sequence[Made], at: float) -> None:
        """A step made new tokens for these requests (or they failed), at perf_counter `at`."""

    def started(self, batch: Batch, key: str, cached: int, at: float) -> None:
        """A request's prefill begins, with `cached` tokens of its prompt found in the cache."""

    def gone(self, batch: Batch, keys: list[str]) -> None:
        """Cancelled requests are out of the batch and their blocks are free."""


def try_out(batch: Batch, vocabulary: int) -> None:
    """Two short prompts: what cannot run shows now, kernels are warm, the pace is known.

    Raises CannotBatch, MemoryError or Unrecoverable.
    """
    _try(batch, vocabulary, (4, FIRST_CHUNK), tokens=4)


def probe(batch: Batch, vocabulary: int) -> None:
    """One token: whether anything can be generated at all. Raises as try_out."""
    _try(batch, vocabulary, (1,), tokens=1)


def _try(batch: Batch, vocabulary: int, lengths: Sequence[int], tokens: int) -> None:
    trial = _Trial()
    kept, batch.listener = batch.listener, trial
    greedy = SamplingParams(temperature=0.0, repetition_penalty=1.0)
    for length in lengths:
        ids = [(7 * place + length) % vocabulary for place in range(length)]
        if not batch.add(f"try {length}", ids, tokens, (), greedy):
            raise meant(batch.take_failure())
        while not (made := trial.made.get()).finished:
            if made.failed:
                raise meant(batch.take_failure())
    batch.listener = kept


def meant(failure: Failure) -> Exception:
    """What the failure of a trial means for whoever wants to batch."""
    if failure.memory:
        return MemoryError(failure.why)
    return (Unrecoverable if failure.device_lost else CannotBatch)(failure.why)


class _Trial:
    """Listens while a batch is tried out."""

    def __init__(self) -> None:
        self.made: SimpleQueue[Made] = SimpleQueue()

    def stepped(self, batch: Batch, made: Sequence[Made], at: float) -> None:
        for each in made:
            self.made.put(each)

    def started(self, batch: Batch, key: str, cached: int, at: float) -> None:
        return None

    def gone(self, batch: Batch, keys: list[str]) -> None:
        return None
