"""Generates many answers at once in a batch.

Admits an answer only when its whole prompt and most_tokens fit the KV cache beside the running answers, so that none is
ever preempted; the others wait in order. Runs on the engine's main thread (or on the load thread, while the main thread
waits for it); events from the batch's thread are posted there. Callers validate parameters and prompts first.

A failed batch is replaced by a new one. After an out-of-memory error, the memory is freed, one token is generated as a
probe, and each answer is retried once, alone; after another error its answers fail. A lost device, or a probe that
fails, raises Unrecoverable: the process must be replaced.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from transformers import PreTrainedModel

from bot.engine.batching.batch import (
    FIRST_CHUNK,
    LARGEST_CHUNK,
    Batch,
    Listener,
    RequestOutput,
    probe,
    try_out,
)
from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.client.protocol import Failed
from bot.engine.cpu.cpu_batch import CpuBatch
from bot.engine.gpu.flat_batch import FlatBatch, GraphLimit
from bot.engine.gpu.paged_batch import PagedBatch
from bot.engine.server.answer import Answer, Emit, Post, abort_waiting
from bot.models.device_errors import Failure, Unrecoverable, release_memory
from bot.types.messages import FinishReason

log = logging.getLogger(__name__)

BatchType = type[CpuBatch] | type[PagedBatch] | type[FlatBatch]
Start = Callable[[PreTrainedModel, int, int, PrefillBudget, Listener], Batch]
"""Factory of a batch; takes the model, its number of cache blocks, the vocabulary size, prefill budget and listener."""


def kind_for(model: PreTrainedModel, gpu_batch: str) -> BatchType:
    """Return the batch class for the model's device; docs/engine.md says why they differ.

    gpu_batch: library or rows, as in ModelSource.
    """
    if model.device.type == "cpu":
        return CpuBatch
    return FlatBatch if gpu_batch == "rows" else PagedBatch


def factory(kind: BatchType, offload_mb: int, stepped: Callable[[], None]) -> Start:
    """Return the factory of a batch class. offload_mb: RAM for KV cache that a GPU evicts. stepped: see FlatBatch."""
    if kind is FlatBatch:
        return partial(FlatBatch, offload_mb=offload_mb, limit=GraphLimit(), stepped=stepped)
    return partial(PagedBatch, offload_mb=offload_mb) if kind is PagedBatch else kind


class Batching:
    """A generator that runs a loaded model in a batch. `cache_tokens`: capacity of the KV cache. `max_running`:
    most answers at once."""

    seeds = False

    def __init__(
        self,
        start: Start,
        model: PreTrainedModel,
        cache_blocks: int,
        vocabulary: int,
        post: Post,
        emit: Emit,
        make_room: Callable[[], None] = release_memory,
    ) -> None:
        """Start the batch and try it out. Raises CannotBatch, Unrecoverable or an out-of-memory error."""
        self._make = start
        self._model = model
        self._cache_blocks = cache_blocks
        self._vocabulary = vocabulary
        self._post = post
        self._emit = emit
        self._make_room = make_room
        self._waiting: deque[Answer] = deque()
        self._running: dict[str, Answer] = {}
        self._reserved: dict[str, int] = {}
        self._closed = False
        self.on_left: Callable[[], None] = _ignore
        """Called when answers have left."""
        self._prefill_budget = PrefillBudget(FIRST_CHUNK, LARGEST_CHUNK)
        self._batch = self._start()
        self.cache_tokens, self.max_running = self._batch.cache_tokens, self._batch.max_running
        try:
            try_out(self._batch, vocabulary)
        except BaseException:
            self._batch.stop()
            raise

    @property
    def running(self) -> int:
        """Number of answers that generate or wait for room."""
        return len(self._running) + len(self._waiting)

    def submit(self, answer: Answer) -> None:
        """Queue an answer and admit it as soon as there is room."""
        self._waiting.append(answer)
        self._admit()

    def abort(self, stream: int) -> None:
        """Stop an answer: immediately if it waits, else before the batch's next step."""
        if abort_waiting(self._waiting, stream, self._emit):
            self._admit()  # later ones may be smaller and fit
            return
        running = self._running.get(str(stream))
        if running is not None and not running.ended:
            running.aborted = True
            self._batch.cancel(str(stream))

    @property
    def offload_mb(self) -> int:
        """Most RAM (MB) for evicted KV cache blocks."""
        return self._batch.offload_mb

    @property
    def offloaded_mb(self) -> int:
        """RAM (MB) allocated so far for evicted KV cache blocks."""
        return self._batch.offloaded_mb

    def blocks(self) -> tuple[int, int]:
        """(free, total) blocks; blocks kept only for reuse count as free."""
        return self._batch.blocks()

    def close(self) -> None:
        """Stop the batch and free its cache; later events are ignored."""
        self._closed = True
        self._batch.stop()

    # ------------------------------------------------------------------------------- called on the batch's thread

    def on_step(self, batch: Batch, made: Sequence[RequestOutput], at: float) -> None:
        self._post(partial(self._on_step, batch, made, at))

    def on_start(self, batch: Batch, key: str, cached: int, at: float) -> None:
        self._post(partial(self._on_started, key, cached, at))

    def on_cancelled(self, batch: Batch, keys: list[str]) -> None:
        self._post(partial(self._on_left, batch, keys))

    # ------------------------------------------------------------------------------------------ on the main thread

    def _start(self) -> Batch:
        return self._make(self._model, self._cache_blocks, self._vocabulary, self._prefill_budget, self)

    def _admit(self) -> None:
        """Admit waiting answers in order, while the batch has a slot and the cache has room for all of each."""
        while self._waiting and len(self._running) < self.max_running:
            answer = self._waiting[0]
            need = self._batch.blocks_for(len(answer.prompt.ids) + answer.params.most_tokens)
            alone = answer.retried or any(other.retried for other in self._running.values())
            if self._running and (alone or sum(self._reserved.values()) + need > self._batch.cache_blocks):
                return
            self._begin(self._waiting.popleft(), need)

    def _begin(self, answer: Answer, need: int) -> None:
        key = str(answer.stream)
        self._running[key] = answer
        self._reserved[key] = need
        ids = [*answer.prompt.ids, *answer.tokens]
        try:
            added = self._batch.add(key, ids, answer.left, sorted(answer.eos), answer.params)
        except BaseException:  # no thread could be started: the caller reports it
            self._release(key)
            raise
        if not added:
            self._post(partial(self._replace, self._batch))

    def _on_started(self, key: str, cached: int, at: float) -> None:
        answer = self._running.get(key)
        if answer is not None and not answer.started_at:
            answer.started_at, answer.cached = at, cached

    def _on_step(self, batch: Batch, made: Sequence[RequestOutput], at: float) -> None:
        """Process the new tokens of one step."""
        if self._closed or batch is not self._batch:
            return
        if any(each.failed for each in made) and batch.has_failed():
            self._replace(batch)
            return
        for each in made:
            answer = self._running.get(each.key)
            if answer is None:
                continue
            if each.failed:
                self._fail(answer, Failure(each.failed))
                self._release(each.key)
            else:
                self._take(answer, each, at)
        self._admit()
        self.on_left()

    def _take(self, answer: Answer, made: RequestOutput, at: float) -> None:
        if not answer.ended:
            delta = answer.push(made.tokens, at)
            reason = answer.reason()
            if reason is not None:
                self._emit(answer.end(delta, reason))
                if not made.finished:
                    self._batch.cancel(made.key)
            elif delta is not None:
                self._emit(delta)
        if answer.aborted and not made.finished:
            self._batch.cancel(made.key)  # again: the first cancel may have preceded the add
        if made.finished:
            self._release(made.key)

    def _on_left(self, batch: Batch, keys: list[str]) -> None:
        """Finish cancelled answers that left the batch."""
        if self._closed or batch is not self._batch:
            return
        for key in keys:
            answer = self._running.get(key)
            if answer is not None:
                if not answer.ended:
                    self._emit(answer.end(None, FinishReason.ABORT))
                self._release(key)
        self._admit()
        self.on_left()

    def _release(self, key: str) -> None:
        del self._running[key]
        del self._reserved[key]

    # ---------------------------------------------------------------------------------------------------- recovery

    def _replace(self, batch: Batch) -> None:
        """Replace a failed batch and recover its answers."""
        if self._closed or batch is not self._batch:
            return
        failure = batch.take_failure()
        if failure.device_lost:
            raise Unrecoverable(failure.why)
        log.error("the batch failed: %s", failure.why)
        self._set_aside(failure)
        batch.stop()
        self._make_room()
        try:
            self._batch = self._start()
            if failure.memory:
                probe(self._batch, self._vocabulary)
        except Exception as error:
            raise Unrecoverable(f"nothing can be generated after that: {error}") from error
        self._admit()
        self.on_left()

    def _set_aside(self, failure: Failure) -> None:
        """Requeue the answers of a batch that ran out of memory, each once, to run alone; fail the others."""
        lost = [answer for answer in self._running.values() if not answer.ended]
        self._running.clear()
        self._reserved.clear()
        for answer in reversed(lost):
            if answer.aborted:
                self._emit(answer.end(None, FinishReason.ABORT))
            elif failure.memory and not answer.retried:
                answer.retried = True
                self._waiting.appendleft(answer)
            else:
                self._fail(answer, failure)

    def _fail(self, answer: Answer, failure: Failure) -> None:
        if not answer.ended:
            answer.ended = True
            self._emit(Failed(answer.stream, failure.sentence))


def _ignore() -> None:
    pass
