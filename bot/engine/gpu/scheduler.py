"""Extends transformers' batch scheduler with cache eviction, offloading, a prefill budget and events.

`CachingScheduler` is first in, first out, like the library's. In addition:
- blocks kept for reuse are evicted one by one, those of the least recently used conversation first and its end before
  its beginning, and only as many as the next step may need (the library evicts all of them at once);
- with `offload`, evicted blocks are kept in RAM (`KVOffload`) and copied back when a prompt begins with them;
- a prefill chunk is limited to what lasts MAX_STEPS decode steps at the measured speed (`PrefillBudget`), which bounds
  the delay of running answers;
- it reports how much of a prompt was found in the cache, and when a cancelled request has left the batch.

It runs on the batch's own thread.
"""

from collections.abc import Callable

from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cache_allocators.cache_allocator import CacheAllocator
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState, RequestStatus
from transformers.generation.continuous_batching.scheduler import FIFOScheduler

from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.gpu.kv_offload import PIECE, KVOffload


class CachingScheduler(FIFOScheduler):
    """See the module.

    matched(id, tokens): a request starts with so many cached tokens. cancelled(ids): these requests left the batch.
    offload: bytes of RAM for evicted blocks.
    """

    def __init__(
        self,
        cache: PagedAttentionCache,
        safety_margin: float | None,
        max_requests_per_batch: int,
        *,
        prefill_budget: PrefillBudget,
        matched: Callable[[str, int], None],
        cancelled: Callable[[list[str]], None],
        offload: int = 0,
    ) -> None:
        super().__init__(cache, safety_margin, max_requests_per_batch)
        self._prefill_budget = prefill_budget
        self._chunk = 0  # prompt tokens that the step may take
        self._matched = matched
        self._report_cancelled = cancelled
        parts = cache.cache_allocators if offload and cache.use_prefix_sharing else {}
        self._offloads = {name: KVOffload(part, offload // len(parts)) for name, part in parts.items()}

    @property
    def offloaded(self) -> int:
        """Bytes of RAM allocated so far for evicted blocks; safe from any thread."""
        return sum(offload.taken for offload in self._offloads.values())

    def schedule_batch(
        self, token_budget: int, cache_budget: int
    ) -> tuple[list[FutureRequestState] | None, bool, int, int]:
        """Schedule by the library's rules within our prefill budget; decoding requests come first and are never cut."""
        answers = sum(state.status == RequestStatus.DECODING for state in self.active_requests.values())
        self._chunk = self._prefill_budget.chunk(answers)
        budget = min(token_budget, self._chunk + answers)
        requests, fast, query_tokens, read_tokens = super().schedule_batch(budget, cache_budget)
        self._prefill_budget.begin(query_tokens - answers, answers)
        return requests, fast, query_tokens, read_tokens

    def finish_request(self, request_id: str) -> None:
        """Free the request's blocks, ordered so that the end of a conversation is evicted before its beginning."""
        blocks = {
            name: list(part.block_table.get(request_id, ())) for name, part in self.cache.cache_allocators.items()
        }
        super().finish_request(request_id)
        self._mark_recently_used(blocks)

    def clear_cancelled_requests(self) -> list[RequestState]:
        """Free the blocks of cancelled requests, and report them."""
        if not self._requests_to_cancel:
            return []
        tables = [
            {name: list(part.block_table.get(request_id, ())) for name, part in self.cache.cache_allocators.items()}
            for request_id in self._requests_to_cancel
        ]
        states = super().clear_cancelled_requests()
        for blocks in tables:
            self._mark_recently_used(blocks)
        self._report_cancelled([state.request_id for state in states])
        return states

    def _infer_request_tokens(self, state: RequestState, request_ids_to_remove_from_waiting: set[str]) -> list[int]:
        starting = state.status == RequestStatus.PENDING
        if starting:
            self._restore_offloaded(state.remaining_prefill_tokens)
        tokens: list[int] = super()._infer_request_tokens(state, request_ids_to_remove_from_waiting)
        if starting:
            self._matched(state.request_id, state.position_offset)
        return tokens

    def _try_to_meet_safety_margin(self) -> bool:
        """Make room for one step. Always True, because admission ensures that running requests fit."""
        for name, part in self.cache.cache_allocators.items():
            if self.cache.use_prefix_sharing:
                for state in self.waiting_requests.values():  # their cached blocks must not be evicted for them
                    self._mark_recently_used({name: part.match_prefix_blocks(state.remaining_prefill_tokens)})
            self._make_room(name, self._step_needs(name))
        self.cache.pool.try_to_free_sectors()
        return True

    def _step_needs(self, name: str) -> int:
        """Return the blocks that the next step may take: those of a prefill chunk, and one more for each request."""
        requests = [*self.active_requests.values(), *self.waiting_requests.values()]
        prefill = min(self._chunk, sum(len(state.remaining_prefill_tokens) for state in requests))
        return prefill // self.cache.cache_allocators[name].tokens_per_page + len(requests) + 1

    def _make_room(self, name: str, blocks: int) -> None:
        """Evict least recently used blocks until so many are free, if possible."""
        part = self.cache.cache_allocators[name]
        oldest = list(part.ledger.cached_blocks)[: max(0, blocks - self._free(part))]
        if name in self._offloads:
            self._offloads[name].keep(oldest)
        for block in oldest:
            del part.ledger.cached_blocks[block]
            del part.ledger.hash_to_block[part.ledger.block_to_hash.pop(block)]
        self.cache.pool.free_blocks(part.index, oldest)

    def _free(self, part: CacheAllocator) -> int:
        pool = self.cache.pool
        return pool.count_free_blocks(part.index) + pool.num_free_sectors * part.blocks_per_sector

    def _restore_offloaded(self, ids: list[int]) -> None:
        """Copy evicted blocks of a prompt's beginning back to the cache, as far as there is room."""
        for name, offload in self._offloads.items():
            part, pool = self.cache.cache_allocators[name], self.cache.pool
            on_gpu, in_ram = offload.find(ids)
            self._mark_recently_used({name: on_gpu})  # as most recently used: must not be evicted below
            needs, resting = self._step_needs(name), part.ledger.cached_blocks
            room = self._free(part) + len(resting) - sum(block in resting for block in on_gpu) - needs
            in_ram = in_ram[: max(0, room)]
            for start in range(0, len(in_ram), PIECE):  # in pieces: each needs a temporary copy on the GPU
                piece = in_ram[start : start + PIECE]
                if not all(each in offload for each in piece):
                    break  # replaced by blocks evicted for earlier pieces
                contents = offload.take(piece)
                self._make_room(name, needs + len(piece))
                while pool.count_free_blocks(part.index) < len(piece):
                    pool.allocate_sector(part.index)
                offload.give(piece, contents, pool.get_free_blocks(part.index, len(piece)))

    def _mark_recently_used(self, blocks: dict[str, list[int]]) -> None:
        """Mark unused blocks as most recently used, so that the last one of the conversation is evicted first."""
        for name, table in blocks.items():
            cached = self.cache.cache_allocators[name].ledger.cached_blocks
            for block in reversed(table):
                if block in cached:
                    del cached[block]
                    cached[block] = None


def free_blocks(cache: PagedAttentionCache) -> tuple[int, int]:
    """(free, total) blocks of a PagedAttentionCache; those kept only for reuse count as free."""
    free = total = 0
    for part in cache.cache_allocators.values():
        free += cache.pool.count_free_blocks(part.index) + len(part.ledger.cached_blocks)
        free += cache.pool.num_free_sectors * part.blocks_per_sector
        total = max(total, part.num_blocks)
    return min(free, total), total
