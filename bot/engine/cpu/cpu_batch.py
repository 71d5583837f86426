"""Implements Batch on a CPU: every step is one pass of the model over the next tokens of all conversations.

A step takes one token of each running answer, perhaps draft tokens, and a chunk of the prompts that are not read yet
(`share`), limited by the prefill budget (`PrefillBudget`). Sampling is one pass over all rows.
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

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bot.engine.batching.batch import Listener, RequestOutput
from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.batching.sampling import History, RequestSampler, sample_tokens
from bot.engine.cpu.attention import enable_attention, forward, shape_of
from bot.engine.cpu.attention_groups import SequenceChunk
from bot.engine.cpu.kv_cache import BLOCK, CachedSequence, KVCache, blocks_for
from bot.models.device_errors import Failure, classify
from bot.types.messages import SamplingParams

log = logging.getLogger(__name__)

MAX_DRAFT_TOKENS = 4
"""Most draft tokens in one step, of all answers together: a few cost almost nothing, many do."""

NGRAM = 3
"""Ids that must match."""
MIN_PROPOSED = 12
"""Draft tokens proposed before their acceptance rate counts."""
MIN_ACCEPTANCE = 0.25
"""Least acceptance rate at which more draft tokens are proposed."""


class PromptLookup:
    """Proposes draft tokens for one answer by prompt lookup: the ids that followed the same three ids last time.

    Works well for quotes, code and lists. A step that checks a few draft tokens takes hardly longer than one
    without (docs/measurements.md), and a rejected one costs nothing else.
    """

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._known = NGRAM
        self._proposed = self._accepted = 0

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Return at most `most` draft tokens that may follow `ids`."""
        for place in range(self._known, len(ids)):
            self._after[tuple(ids[place - NGRAM : place])] = place
        self._known = max(self._known, len(ids))
        place = self._after.get(tuple(ids[-NGRAM:]), len(ids))
        if self._proposed >= MIN_PROPOSED and self._accepted < MIN_ACCEPTANCE * self._proposed:
            return []
        return list(ids[place : place + most])

    def learn(self, made: int, right: int) -> None:
        """Record that `made` draft tokens were checked and the first `right` of them accepted."""
        self._proposed += made
        self._accepted += right


@dataclass(slots=True, eq=False)
class BatchRequest:
    """A request in the batch. ids: prompt and answer; those that are not in the row yet are computed next."""

    key: str
    prompt: Sequence[int]
    ids: list[int]
    left: int
    eos: frozenset[int]
    sampler: RequestSampler
    row: CachedSequence = field(init=False)  # set when it begins
    draft: list[int] = field(default_factory=list)
    lookup: PromptLookup = field(default_factory=PromptLookup)

    @property
    def ahead(self) -> int:
        """Number of tokens to compute before the next one can be sampled."""
        return len(self.ids) - len(self.row.ids)

    def chunk(self, count: int) -> SequenceChunk:
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


class CpuBatch:
    """A Batch over a KV cache of `blocks` blocks."""

    block = BLOCK
    offload_mb = offloaded_mb = 0  # the cache itself is RAM

    def __init__(
        self, model: PreTrainedModel, blocks: int, vocabulary: int, prefill_budget: PrefillBudget, listener: Listener
    ) -> None:
        """Raises CannotBatch if the model cannot use our attention, or MemoryError or Unrecoverable."""
        self.listener = listener
        self.cache_blocks, self.cache_tokens = blocks, blocks * BLOCK
        self._model = model
        self._vocabulary = vocabulary
        self._prefill_budget = prefill_budget
        self._cache = KVCache(shape_of(model), blocks)
        self._requests: dict[str, BatchRequest] = {}
        self._inbox: SimpleQueue[BatchRequest | str | None] = SimpleQueue()  # begin, cancel, or stop
        self._failure: Failure | None = None
        self._stopped = False
        self._lock = Lock()  # guards _thread, and the last look at _inbox
        self._thread: Thread | None = None
        enable_attention(model, vocabulary)

    def blocks_for(self, tokens: int) -> int:
        return blocks_for(tokens)

    def blocks(self) -> tuple[int, int]:
        return (0, 0) if self._stopped else (self._cache.free, self.cache_blocks)

    def add(self, key: str, ids: Sequence[int], max_tokens: int, eos: Sequence[int], params: SamplingParams) -> bool:
        sampler = RequestSampler(params, self._vocabulary)
        request = BatchRequest(key, ids, list(ids), max_tokens, frozenset(eos), sampler)
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
        self._cache = KVCache(shape_of(self._model), 0)

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
                    self._thread = None
                    return False

    def _process(self, item: BatchRequest | str) -> None:
        if isinstance(item, BatchRequest):
            self._begin(item)
        elif item in self._requests:
            self._cache.release(self._requests.pop(item).row)
            self.listener.on_cancelled(self, [item])

    def _begin(self, request: BatchRequest) -> None:
        self._requests[request.key] = request
        request.row = self._cache.allocate(request.ids, len(request.ids) + request.left)
        self.listener.on_start(self, request.key, len(request.row.ids), perf_counter())

    def _step(self) -> None:
        """Run one pass of the model, and sample a token for every request whose prompt is read."""
        began = perf_counter()
        plan = self._plan()
        answers = sum(request.ahead == 1 for request, _ in plan)
        chunks = [request.chunk(count) for request, count in plan]
        logits = forward(self._model, chunks)
        ready = [request for (request, _), chunk in zip(plan, chunks, strict=True) if chunk.wanted]
        made = self._sample(ready, logits) if ready else []
        self._prefill_budget.learn(sum(count for _, count in plan) - answers, answers, perf_counter() - began)
        if made:
            self.listener.on_step(self, made, perf_counter())

    def _plan(self) -> list[tuple[BatchRequest, int]]:
        """Choose the requests of the next step, and how many tokens of each."""
        writing = [request for request in self._requests.values() if request.ahead == 1]
        reading = [request for request in self._requests.values() if request.ahead > 1]
        for request in writing:
            most = min(MAX_DRAFT_TOKENS // len(writing), request.left - 1) if not reading else 0
            request.draft = request.lookup.propose(request.ids, most) if most else []
        counts = share([request.ahead for request in reading], self._prefill_budget.chunk(len(writing)))
        writing.sort(key=lambda request: request.row.where)  # adjacent rows share a call
        plan = [(request, 1) for request in writing]
        return plan + [(request, count) for request, count in zip(reading, counts, strict=True) if count]

    def _sample(self, ready: Sequence[BatchRequest], logits: Tensor) -> list[RequestOutput]:
        """Sample the next tokens from the logits of these requests and their draft tokens."""
        histories = [history for request in ready for history in request.histories()]
        samplers = [request.sampler for request in ready for _ in range(1 + len(request.draft))]
        tokens = iter(sample_tokens(logits, samplers, histories))
        made = [request.take(list(islice(tokens, 1 + len(request.draft)))) for request in ready]
        for each in made:
            if each.finished:
                self._cache.release(self._requests.pop(each.key).row)
        return made


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
