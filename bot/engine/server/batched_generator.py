"""Many answers at once, in a batch that is fed so that nothing which would kill it ever reaches it.

In: answers whose parameters and prompt passed the guards. Out: their deltas through `emit`. An answer enters the batch
only when its whole prompt and max_tokens fit the KV cache beside those already in, so that nobody is ever thrown out
again; the others wait here, in order. Everything runs on the engine's main thread (or on a load's, while that one
waits), except that what the batch's own thread reports is `post`ed there.

Should the batch die all the same, its answers fail with a sentence and a new one takes its place. Out of memory, what
can be given back is given back, one token is tried, and each answer goes on once more, alone. A CUDA error is for good:
it is raised as Unrecoverable, and the process must go.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from transformers import PreTrainedModel

from bot.engine.batching.batch import FIRST_CHUNK, LARGEST_CHUNK, MAX_RUNNING, Batch, Listener, Made, probe, try_out
from bot.engine.batching.prefill_budget import Pace
from bot.engine.client.protocol import Failed
from bot.engine.cpu.cpu_batch import RowBatch
from bot.engine.gpu.paged_batch import PagedBatch
from bot.engine.server.generation import Answer, Emit, Post
from bot.models.device_errors import Failure, Unrecoverable, give_back
from bot.types.messages import FinishReason

log = logging.getLogger(__name__)

Kind = type[RowBatch] | type[PagedBatch]
Start = Callable[[PreTrainedModel, int, int, Pace, Listener], Batch]
"""What makes a batch: of a model, so many blocks, so large a vocabulary."""


def kind_for(model: PreTrainedModel) -> Kind:
    """The batch that suits the model's device; ARCHITECTURE.md says why."""
    return RowBatch if model.device.type == "cpu" else PagedBatch


class Batching:
    """A loaded model and its batch; see the module. `cache_tokens`: what the KV cache holds."""

    seeds = False
    max_running = MAX_RUNNING

    def __init__(
        self,
        start: Start,
        model: PreTrainedModel,
        cache_blocks: int,
        vocabulary: int,
        post: Post,
        emit: Emit,
        make_room: Callable[[], None] = give_back,
    ) -> None:
        """Start the batch and try it out. Raises CannotBatch, Unrecoverable, or what is a want of memory."""
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
        self._pace = Pace(FIRST_CHUNK, LARGEST_CHUNK)
        self._batch = self._start()
        self.cache_tokens = self._batch.cache_tokens
        try:
            try_out(self._batch, vocabulary)
        except BaseException:
            self._batch.stop()
            raise

    @property
    def running(self) -> int:
        """Answers that are generated or wait for room."""
        return len(self._running) + len(self._waiting)

    def submit(self, answer: Answer) -> None:
        """Let it into the batch, now or when there is room."""
        self._waiting.append(answer)
        self._admit()

    def abort(self, stream: int) -> None:
        """End it: at once if it waits, else when the batch let go of it (before its next step)."""
        for answer in self._waiting:
            if answer.stream == stream:
                self._waiting.remove(answer)
                self._emit(answer.end("", FinishReason.ABORT))
                self._admit()  # those behind it may be smaller
                return
        running = self._running.get(str(stream))
        if running is not None and not running.ended:
            running.aborted = True
            self._batch.cancel(str(stream))

    @property
    def offload_mb(self) -> int:
        """RAM that what its cache has no more room for may take."""
        return self._batch.offload_mb

    @property
    def offloaded_mb(self) -> int:
        """RAM that what its cache had no more room for has come to take."""
        return self._batch.offloaded_mb

    def blocks(self) -> tuple[int, int]:
        """(free, all) blocks; those kept only for reuse are free."""
        return self._batch.blocks()

    def close(self) -> None:
        """Stop the batch and give its cache back; what it still reports is not listened to."""
        self._closed = True
        self._batch.stop()

    # ------------------------------------------------------------------------------- called on the batch's thread

    def stepped(self, batch: Batch, made: Sequence[Made], at: float) -> None:
        self._post(partial(self._on_step, batch, made, at))

    def started(self, batch: Batch, key: str, cached: int, at: float) -> None:
        self._post(partial(self._on_started, key, cached, at))

    def gone(self, batch: Batch, keys: list[str]) -> None:
        self._post(partial(self._on_gone, batch, keys))

    # ------------------------------------------------------------------------------------------ on the main thread

    def _start(self) -> Batch:
        return self._make(self._model, self._cache_blocks, self._vocabulary, self._pace, self)

    def _admit(self) -> None:
        """Let waiting answers in, in order, while the batch has a place and the cache has room for all of each."""
        while self._waiting and len(self._running) < MAX_RUNNING:
            answer = self._waiting[0]
            need = self._batch.blocks_for(len(answer.prompt.ids) + answer.params.max_tokens)
            lonely = answer.retried or any(other.retried for other in self._running.values())
            if self._running and (lonely or sum(self._reserved.values()) + need > self._batch.cache_blocks):
                return
            self._begin(self._waiting.popleft(), need)

    def _begin(self, answer: Answer, need: int) -> None:
        key = str(answer.stream)
        self._running[key] = answer
        self._reserved[key] = need
        ids = [*answer.prompt.ids, *answer.tokens]
        try:
            added = self._batch.add(key, ids, answer.left, sorted(answer.eos), answer.params)
        except BaseException:  # the system gives no more threads: the caller says so, and nothing is owed
            self._release(key)
            raise
        if not added:
            self._post(partial(self._replace, self._batch))

    def _on_started(self, key: str, cached: int, at: float) -> None:
        answer = self._running.get(key)
        if answer is not None and not answer.started_at:
            answer.started_at, answer.cached = at, cached

    def _on_step(self, batch: Batch, made: Sequence[Made], at: float) -> None:
        """One step's new tokens, of all answers."""
        if self._closed or batch is not self._batch:
            return
        if any(each.failed for each in made) and batch.is_dead():
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

    def _take(self, answer: Answer, made: Made, at: float) -> None:
        if not answer.ended:
            text = answer.push(made.tokens, at)
            reason = answer.reason()
            if reason is not None:
                self._emit(answer.end(text, reason))
                if not made.finished:
                    self._batch.cancel(made.key)
            elif text:
                self._emit(answer.delta(text))
        if answer.aborted and not made.finished:
            self._batch.cancel(made.key)  # once more: it may have been asked to before it knew of the answer
        if made.finished:
            self._release(made.key)

    def _on_gone(self, batch: Batch, keys: list[str]) -> None:
        """The batch let go of cancelled answers."""
        if self._closed or batch is not self._batch:
            return
        for key in keys:
            answer = self._running.get(key)
            if answer is not None:
                if not answer.ended:
                    self._emit(answer.end("", FinishReason.ABORT))
                self._release(key)
        self._admit()

    def _release(self, key: str) -> None:
        del self._running[key]
        del self._reserved[key]

    # ------------------------------------------------------------------------------------------------ when it dies

    def _replace(self, batch: Batch) -> None:
        """Start the dead batch anew, and see to the answers that were in it."""
        if self._closed or batch is not self._batch:
            return
        failure = batch.take_failure()
        if failure.device_lost:
            raise Unrecoverable(failure.why)
        log.error("the batch died: %s", failure.why)
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

    def _set_aside(self, failure: Failure) -> None:
        """What becomes of the answers of a dead batch: out of memory, each waits to go on once more, alone."""
        lost = [answer for answer in self._running.values() if not answer.ended]
        self._running.clear()
        self._reserved.clear()
        for answer in reversed(lost):
            if answer.aborted:
                self._emit(answer.end("", FinishReason.ABORT))
            elif failure.memory and not answer.retried:
                answer.retried = True
                self._waiting.appendleft(answer)
            else:
                self._fail(answer, failure)

    def _fail(self, answer: Answer, failure: Failure) -> None:
        if not answer.ended:
            answer.ended = True
            self._emit(Failed(answer.stream, failure.sentence))
