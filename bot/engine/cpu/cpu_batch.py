"""Implements Batch on a CPU: rows in slabs, and one attention call for each group of adjacent rows."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from bot.engine.batching.batch import LARGEST_CHUNK, MAX_RUNNING, Listener
from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.batching.row_batch import BatchRequest, RowBatch
from bot.engine.batching.row_cache import shape_of
from bot.engine.batching.sampling import sample_tokens
from bot.engine.cpu.attention import enable_attention, forward
from bot.engine.cpu.attention_groups import Chunk
from bot.engine.cpu.kv_cache import KVCache, SlabSequence
from bot.engine.cpu.thread_count import ThreadCount

MAX_DRAFT_TOKENS = 4
"""Most draft tokens in one step, of all answers together: a few cost almost nothing, many do."""


class CpuRunner:
    """Runs steps on the CPU. Sampling is one pass over all rows."""

    most_tokens = LARGEST_CHUNK + MAX_RUNNING
    most_drafts = MAX_DRAFT_TOKENS

    def __init__(self, model: PreTrainedModel, blocks: int) -> None:
        self.cache = KVCache(shape_of(model), blocks)
        self._model = model
        self._threads = ThreadCount()

    def begin(self, request: BatchRequest[SlabSequence]) -> None:
        return None

    def end(self, request: BatchRequest[SlabSequence]) -> None:
        return None

    def run(self, plan: Sequence[tuple[BatchRequest[SlabSequence], Chunk]]) -> list[int]:
        self._threads.adjust()
        logits = forward(self._model, [chunk for _, chunk in plan])
        ready = [request for request, chunk in plan if chunk.wanted]
        if not ready:
            return []
        histories = [history for request in ready for history in request.histories()]
        samplers = [request.sampler for request in ready for _ in range(1 + len(request.draft))]
        return sample_tokens(logits, samplers, histories)

    def rest(self) -> None:
        self._threads.rest()

    def close(self) -> None:
        self._threads.rest()
        self.cache = KVCache(shape_of(self._model), 0)


class CpuBatch(RowBatch[SlabSequence]):
    """A Batch over a KV cache of `blocks` blocks. Nothing is offloaded: the cache itself is RAM."""

    max_running = MAX_RUNNING

    def __init__(
        self, model: PreTrainedModel, blocks: int, vocabulary: int, prefill_budget: PrefillBudget, listener: Listener
    ) -> None:
        """Raises CannotBatch if the model cannot use our attention, or MemoryError or Unrecoverable."""
        enable_attention(model, vocabulary)
        super().__init__(CpuRunner(model, blocks), vocabulary, prefill_budget, listener)
