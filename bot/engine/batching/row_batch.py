"""Plans the steps of a batch over rows of keys and values; a RowRunner computes them on one device.

A step takes one token of each running answer, perhaps draft tokens, and a chunk of the prompts that are not read yet
(`share`), limited by the prefill budget (`PrefillBudget`). bot.engine.cpu.cpu_batch and bot.engine.gpu.flat_batch
have the runners.
"""

import contextlib
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import perf_counter
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from bot.engine.batching.batch import Listener, RequestOutput
from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.batching.prompt_lookup import PromptLookup
from bot.engine.batching.row_cache import BLOCK, CachedSequence, RowCache, blocks_for
from bot.engine.batching.sampling import History, RequestSampler
from bot.models.device_errors import Failure, classify
from bot.types.messages import SamplingParams

log = logging.getLogger(__name__)

TOLERANCE = 0.05
"""Most difference of logits, as a share of the largest; in bfloat16 the order of additions makes 0.01."""

R = TypeVar("R", bound=CachedSequence)


@dataclass(frozen=True, slots=True)
class SequenceChunk(Generic[R]):
    """Tokens that continue a sequence. wanted: how many of the last ones need logits."""

    row: R
    ids: Sequence[int]
    wanted: int = 1


@dataclass(slots=True, eq=False)
class BatchRequest(Generic[R]):
    """A request in the batch. ids: prompt and answer; those that are not in the row yet are computed next."""

    key: str
    prompt: Sequence[int]
    ids: list[int]
    left: int
    eos: frozenset[int]
    sampler: RequestSampler
    row: R = field(init=False)  # set when it begins
    draft: list[int] = field(default_factory=list)
    lookup: PromptLookup = field(default_factory=PromptLookup)

    @property
    def ahead(self) -> int:
        """Number of tokens to compute before the next one can be sampled."""
        return len(self.ids) - len(self.row.ids)

    def chunk(self, count: int) -> SequenceChunk[R]:
        """Return the next `count` tokens; after the last one the draft tokens, each of which needs logits."""
        before = len(self.row.ids)
        wanted = 1 + len(self.draft) if count == self.ahead else 0
        return SequenceChunk(self.row, self.ids[before : before + count] + self.draft, wanted)

    def histories(self) -> list[History]:
        """Return the history of the next token, and that of the token after each draft token."""
        answer = self.ids[len(self.prompt) :]
        return [(self.prompt, answer + self.draft[:right]) for right in range(1 + len(self.draft))]

    def take(self, tokens: Sequence[int]) -> RequestOutput:
        """Append the sampled tokens: one after the known ids and one after each draft token.

        A token counts if all draft tokens before it were accepted.
        """
        wrong = (place for place, token in enumerate(self.draft) if tokens[place] != token)
        made = list(tokens[: next(wrong, len(self.draft)) + 1])
        end = next((place for place, token in enumerate(made) if token in self.eos), len(made) - 1)
        made = made[: end + 1]
        if self.draft:
            self.lookup.learn(len(self.draft), len(made) - 1)
        self.ids += made
        self.left -= len(made)
        del self.row.ids[len(self.ids) - 1 :]
        self.sampler.truncate(len(self.ids) - len(self.prompt) - 1)  # drops rejected draft tokens from the history
        return RequestOutput(self.key, made, self.left <= 0 or made[-1] in self.eos)


class RowRunner(Protocol[R]):
    """Computes the steps of a RowBatch on one device, on the batch's thread.

    cache: the rows. most_tokens: most tokens of one step. most_drafts: most draft tokens of one step, of all answers
    together.
    """

    most_tokens: int
    most_drafts: int

    @property
    def cache(self) -> RowCache[R]: ...

    def begin(self, request: BatchRequest[R]) -> None:
        """Prepare for a request, which has its row."""
        ...

    def end(self, request: BatchRequest[R]) -> None:
        """Forget a request; its row is released next."""
        ...

    def run(self, plan: Sequence[tuple[BatchRequest[R], SequenceChunk[R]]]) -> list[int]:
        """Run one pass of the model and return the next token of each wanted place, in order.

        The rows then end with the chunks' tokens; if the pass raises, their ids are unchanged.
        """
        ...

    def rest(self) -> None:
        """Leave the device to other models; called when there is no request."""
        ...

    def close(self) -> None:
        """Free the device's memory, the cache's included."""
        ...


class RowBatch(Generic[R]):
    """A Batch over the rows of its runner."""

    block = BLOCK
    max_running: int
    offload_mb = 0

    def __init__(
        self, runner: RowRunner[R], vocabulary: int, prefill_budget: PrefillBudget, listener: Listener
    ) -> None:
        self.listener = listener
        self.cache_blocks, self.cache_tokens = runner.cache.blocks, runner.cache.blocks * BLOCK
        self._runner = runner
        self._vocabulary = vocabulary
        self._prefill_budget = prefill_budget
        self._requests: dict[str, BatchRequest[R]] = {}
        self._inbox: SimpleQueue[BatchRequest[R] | str | None] = SimpleQueue()  # begin, cancel, or stop
        self._failure: Failure | None = None
        self._stopped = False
        self._lock = Lock()  # guards _thread, and the last look at _inbox
        self._thread: Thread | None = None

    @property
    def offloaded_mb(self) -> int:
        return 0

    def blocks_for(self, tokens: int) -> int:
        return blocks_for(tokens)

    def blocks(self) -> tuple[int, int]:
        return (0, 0) if self._stopped else (self._runner.cache.free, self.cache_blocks)

    def add(self, key: str, ids: Sequence[int], max_tokens: int, eos: Sequence[int], params: SamplingParams) -> bool:
        sampler = RequestSampler(params, self._vocabulary)
        request: BatchRequest[R] = BatchRequest(key, ids, list(ids), max_tokens, frozenset(eos), sampler)
        with self._lock:
            if self._thread is None:
                thread = Thread(target=self._run, name="batch", daemon=True)
                thread.start()  # if it raises, the next add tries again
                self._thread = thread
            self._inbox.put(request)
        return not self.has_failed()

    def cancel(self, key: str) -> None:
        self._inbox.put(key)

    def has_failed(self) -> bool:
        return self._failure is not None or self._stopped

    def take_failure(self) -> Failure:
        if self._thread is not None:
            self._thread.join(timeout=30)
        return self._failure or Failure("it ended by itself")

    def stop(self) -> None:
        self._inbox.put(None)
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
        self._stopped = True
        self._requests.clear()
        self._runner.close()

    def _run(self) -> None:
        """Batch thread: runs steps while there is work (see run_on_new_thread for why it then ends)."""
        try:
            with torch.inference_mode():
                while self._process_inbox():
                    self._step()
        except Exception as error:  # any error ends this batch, and Batching starts another
            log.error("a step failed\n%s", traceback.format_exc())  # as text: a log record would keep the tensors
            failure = self._failure = classify(error)
        else:
            return
        # Later calls of add() see that the batch has failed; requests added before are reported as failed.
        with contextlib.suppress(Empty):
            while True:
                item = self._inbox.get_nowait()
                if isinstance(item, BatchRequest):
                    self._requests[item.key] = item
        made = [RequestOutput(key, (), failed=failure.why) for key in self._requests]
        self.listener.on_step(self, made, perf_counter())

    def _process_inbox(self) -> bool:
        """Process the inbox. Returns False if there is no work, or to stop."""
        while True:
            with contextlib.suppress(Empty):
                while True:
                    item = self._inbox.get_nowait()
                    if item is None:
                        return False
                    self._process(item)
            if self._requests:
                return True
            with self._lock:
                if self._inbox.empty():
                    self._runner.rest()
                    self._thread = None
                    return False

    def _process(self, item: BatchRequest[R] | str) -> None:
        if isinstance(item, BatchRequest):
            self._begin(item)
        elif item in self._requests:
            self._end(item)
            self.listener.on_cancelled(self, [item])

    def _begin(self, request: BatchRequest[R]) -> None:
        self._requests[request.key] = request
        request.row = self._runner.cache.allocate(request.ids, len(request.ids) + request.left)
        self._runner.begin(request)
        self.listener.on_start(self, request.key, len(request.row.ids), perf_counter())

    def _end(self, key: str) -> None:
        request = self._requests.pop(key)
        self._runner.end(request)
        self._runner.cache.release(request.row)

    def _step(self) -> None:
        """Run one pass of the model, and take a token for every request whose prompt is read."""
        began = perf_counter()
        plan = self._plan()
        answers = sum(request.ahead == 1 for request, _ in plan)
        chunks = [request.chunk(count) for request, count in plan]
        tokens = iter(self._runner.run([(request, chunk) for (request, _), chunk in zip(plan, chunks, strict=True)]))
        ready = [request for (request, _), chunk in zip(plan, chunks, strict=True) if chunk.wanted]
        made = [request.take(list(islice(tokens, 1 + len(request.draft)))) for request in ready]
        for each in made:
            if each.finished:
                self._end(each.key)
        self._prefill_budget.learn(sum(count for _, count in plan) - answers, answers, perf_counter() - began)
        if made:
            self.listener.on_step(self, made, perf_counter())

    def _plan(self) -> list[tuple[BatchRequest[R], int]]:
        """Choose the requests of the next step, and how many tokens of each."""
        writing = [request for request in self._requests.values() if request.ahead == 1]
        reading = [request for request in self._requests.values() if request.ahead > 1]
        for request in writing:
            most = min(self._runner.most_drafts // len(writing), request.left - 1) if not reading else 0
            request.draft = request.lookup.propose(request.ids, most) if most else []
        budget = min(self._prefill_budget.chunk(len(writing)), self._runner.most_tokens - len(writing))
        counts = share([request.ahead for request in reading], budget)
        writing.sort(key=lambda request: request.row.where)  # adjacent rows share a call
        plan = [(request, 1) for request in writing]
        return plan + [(request, count) for request, count in zip(reading, counts, strict=True) if count]


def share(ahead: Sequence[int], budget: int) -> list[int]:
    """Return how many tokens of each prompt go into a step of `budget` tokens.

    ahead: tokens left of each prompt, oldest first. The oldest prompt gets half of the budget, so that it always
    advances. The rest goes to the shortest first, since these can be answered soonest.
    """
    counts = [0] * len(ahead)
    if ahead:
        counts[0] = min(ahead[0], -(-budget // 2))
    for place in sorted(range(len(ahead)), key=lambda place: ahead[place] - counts[place]):
        counts[place] += min(ahead[place] - counts[place], budget - sum(counts))
    return counts


def agrees(found: Tensor, wanted: Tensor) -> bool:
    """Whether logits equal those of the model's own attention but for rounding; never if one of them is NaN."""
    return bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())
