"""Our rules inside transformers' batch scheduler: what is kept of the cache, how long a step may last, who is told.

`KeepingScheduler` is first in, first out, like the library's. Beyond it:
- blocks kept for reuse are evicted one by one, those of the conversation that rested longest first and its end before
  its beginning, and only as many as the next step may need (the library's own rule evicts all of them at once);
- a prefill chunk is cut to what lasts MAX_STEPS decode steps at the measured speed (`Pace`), so that nobody who is
  being answered, or who asks to stop, waits longer than that;
- it tells how much of a prompt was found in the cache, and when a cancelled request is gone.

It runs on the batch's own thread.
"""

from collections.abc import Callable

from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState, RequestStatus
from transformers.generation.continuous_batching.scheduler import FIFOScheduler

from bot.engine.pace import Pace


class KeepingScheduler(FIFOScheduler):
    """See the module. matched(id, tokens): a request starts, so many tokens were found. gone(ids): cancelled."""

    def __init__(
        self,
        cache: PagedAttentionCache,
        safety_margin: float | None,
        max_requests_per_batch: int,
        *,
        pace: Pace,
        matched: Callable[[str, int], None],
        gone: Callable[[list[str]], None],
    ) -> None:
        super().__init__(cache, safety_margin, max_requests_per_batch)
        self.pace = pace
        self._matched = matched
        self._gone = gone

    def schedule_batch(
        self, token_budget: int, cache_budget: int
    ) -> tuple[list[FutureRequestState] | None, bool, int, int]:
        """The library's choice within our chunk; decoding requests come first and are never cut."""
        budget = min(token_budget, self.pace.chunk + len(self.active_requests))
        requests, fast, query_tokens, read_tokens = super().schedule_batch(budget, cache_budget)
        self.pace.begin(query_tokens, len(requests or ()))
        return requests, fast, query_tokens, read_tokens

    def finish_request(self, request_id: str) -> None:
        """Free the request's blocks, so ordered that the end of a conversation is evicted before its beginning."""
        blocks = {
            name: list(part.block_table.get(request_id, ())) for name, part in self.cache.cache_allocators.items()
        }
        super().finish_request(request_id)
        self._rest(blocks)

    def clear_cancelled_requests(self) -> list[RequestState]:
        """Free what cancelled requests held, and tell who is gone."""
        if not self._requests_to_cancel:
            return []
        tables = [
            {name: list(part.block_table.get(request_id, ())) for name, part in self.cache.cache_allocators.items()}
            for request_id in self._requests_to_cancel
        ]
        states = super().clear_cancelled_requests()
        for blocks in tables:
            self._rest(blocks)
        self._gone([state.request_id for state in states])
        return states

    def _infer_request_tokens(self, state: RequestState, request_ids_to_remove_from_waiting: set[str]) -> list[int]:
        starting = state.status == RequestStatus.PENDING
        tokens: list[int] = super()._infer_request_tokens(state, request_ids_to_remove_from_waiting)
        if starting:
            self._matched(state.request_id, state.position_offset)
        return tokens

    def _try_to_meet_safety_margin(self) -> bool:
        """Make room for one step. Admission sees to it that running requests fit, so nobody is ever held back here."""
        requests = [*self.active_requests.values(), *self.waiting_requests.values()]
        prefill = min(self.pace.chunk, sum(len(state.remaining_prefill_tokens) for state in requests))
        for part in self.cache.cache_allocators.values():
            ledger = part.ledger
            # Besides the chunk's own pages, each request may begin one more.
            room = prefill // part.tokens_per_page + len(requests) + 1
            free = self.cache.pool.count_free_blocks(part.index)
            free += self.cache.pool.num_free_sectors * part.blocks_per_sector
            oldest = list(ledger.cached_blocks)[: max(0, room - free)]
            for block in oldest:
                del ledger.cached_blocks[block]
                del ledger.hash_to_block[ledger.block_to_hash.pop(block)]
            self.cache.pool.free_blocks(part.index, oldest)
        self.cache.pool.try_to_free_sectors()
        return True

    def _rest(self, blocks: dict[str, list[int]]) -> None:
        """Put the blocks that nobody uses any more at the young end, the last of the conversation first."""
        for name, table in blocks.items():
            cached = self.cache.cache_allocators[name].ledger.cached_blocks
            for block in reversed(table):
                if block in cached:
                    del cached[block]
                    cached[block] = None


def free_blocks(cache: PagedAttentionCache) -> tuple[int, int]:
    """(free, all) blocks of a PagedAttentionCache; those kept only for reuse count as free."""
    free = total = 0
    for part in cache.cache_allocators.values():
        free += cache.pool.count_free_blocks(part.index) + len(part.ledger.cached_blocks)
        free += cache.pool.num_free_sectors * part.blocks_per_sector
        total = max(total, part.num_blocks)
    return min(free, total), total
