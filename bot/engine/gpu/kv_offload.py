"""What a GPU's KV cache has no more room for, in the machine's own memory until somebody goes on with it.

In: blocks of the library's cache that are about to be evicted; later the ids of a prompt. Out: the blocks which that
prompt begins with and the cache has not, for the cache to hold again. Promise: no more than the bytes that were given;
whoever rested longest goes first. It runs on the batch's own thread, between two steps.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cache_allocators.cache_allocator import (
    CacheAllocator,
    compute_block_hash,
)

PIECE = 64
"""Blocks that are brought back at once."""


class Offload:
    """The evicted blocks of one part of the cache (all layers with one kind of attention)."""

    def __init__(self, part: CacheAllocator, limit: int) -> None:
        """limit: bytes. They are taken as they are used."""
        self._part = part
        self._rows = torch.empty((limit // part.bytes_per_block, part.bytes_per_block), dtype=torch.uint8)
        self._free = list(reversed(range(len(self._rows))))
        self._kept: dict[int, int] = {}  # hash of a block: its row; who rested longest comes first

        self._used = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, known: int) -> bool:
        return known in self._kept

    @property
    def taken(self) -> int:
        """Bytes that it has come to take; from any thread."""
        return self._used * self._part.bytes_per_block

    def keep(self, blocks: Sequence[int]) -> None:
        """Copy these blocks, the longest unused first. The cache must still have them, with their hashes."""
        blocks = blocks[max(0, len(blocks) - len(self._rows)) :]
        if not blocks:
            return
        hashes = [self._part.ledger.block_to_hash[block] for block in blocks]
        for known in self._kept.keys() & set(hashes):
            self._free.append(self._kept.pop(known))
        for oldest in list(self._kept)[: max(0, len(blocks) - len(self._free))]:
            self._free.append(self._kept.pop(oldest))
        rows = [self._free.pop() for _ in blocks]
        self._rows[torch.tensor(rows)] = self._cache.index_select(0, self._ids(blocks)).cpu()
        self._kept.update(zip(hashes, rows, strict=True))
        self._used = max(self._used, max(rows) + 1)

    def find(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Of the blocks that a prompt begins with: those in the cache, and the hashes of those that are only here.

        Its last token is to be computed, so it counts for nothing, as in the library's own search.
        """
        page, known = self._part.tokens_per_page, None
        there: list[int] = []
        here: list[int] = []
        for start in range(0, (len(ids) - 1) // page * page, page):
            known = compute_block_hash(known, list(ids[start : start + page]))
            block = self._part.ledger.hash_to_block.get(known)
            if block is not None:
                there.append(block)
            elif known in self._kept:
                here.append(known)
            else:
                break
        return there, here

    def take(self, hashes: Sequence[int]) -> Tensor:
        """What these blocks hold, uint8 [blocks, bytes of a block]; it is not kept any more."""
        rows = [self._kept.pop(each) for each in hashes]
        self._free += rows
        return self._rows[torch.tensor(rows)]

    def give(self, hashes: Sequence[int], contents: Tensor, blocks: Sequence[int]) -> None:
        """Fill these blocks of the cache, which nobody uses, and let them be found there."""
        self._cache.index_copy_(0, self._ids(blocks), contents.to(self._cache.device))
        if self._cache.is_cuda:
            torch.cuda.synchronize(self._cache.device)  # the next step reads them on a stream of its own
        ledger = self._part.ledger
        for known, block in zip(hashes, blocks, strict=True):
            ledger.hash_to_block[known], ledger.block_to_hash[block] = block, known
            ledger.cached_blocks[block] = None

    @property
    def _cache(self) -> Tensor:
        """The part's cache, uint8 [blocks, bytes of a block]."""
        cache: Tensor = self._part._copy_view
        return cache

    def _ids(self, blocks: Iterable[int]) -> Tensor:
        return torch.tensor(list(blocks), device=self._cache.device)
