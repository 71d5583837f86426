"""Keeps blocks evicted from a GPU's KV cache in RAM, until a prompt begins with them.

Takes no more than the given bytes; drops the least recently used blocks first. Runs on the batch's own thread, between
two steps.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cache_allocators.cache_allocator import (
    CacheAllocator,
    compute_block_hash,
)

PIECE = 64
"""Blocks that are copied back at once."""


class KVOffload:
    """Evicted blocks of one part of the cache (all layers with one kind of attention)."""

    def __init__(self, part: CacheAllocator, limit: int) -> None:
        """limit: bytes, allocated as they are used."""
        self._part = part
        self._rows = torch.empty((limit // part.bytes_per_block, part.bytes_per_block), dtype=torch.uint8)
        self._free = list(reversed(range(len(self._rows))))
        self._kept: dict[int, int] = {}  # block hash to row, least recently used first

        self._used = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, known: int) -> bool:
        return known in self._kept

    @property
    def taken(self) -> int:
        """Bytes allocated so far; safe from any thread."""
        return self._used * self._part.bytes_per_block

    def keep(self, blocks: Sequence[int]) -> None:
        """Copy these blocks, least recently used first. The cache must still hold them and their hashes."""
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
        """Return the blocks of a prompt's cached prefix: those in the GPU's cache, and the hashes of those only in RAM.

        Excludes the last token, which must be computed, as the library's own search does.
        """
        page, known = self._part.tokens_per_page, None
        on_gpu: list[int] = []
        in_ram: list[int] = []
        for start in range(0, (len(ids) - 1) // page * page, page):
            known = compute_block_hash(known, list(ids[start : start + page]))
            block = self._part.ledger.hash_to_block.get(known)
            if block is not None:
                on_gpu.append(block)
            elif known in self._kept:
                in_ram.append(known)
            else:
                break
        return on_gpu, in_ram

    def take(self, hashes: Sequence[int]) -> Tensor:
        """Remove these blocks and return their contents, uint8 [blocks, bytes of a block]."""
        rows = [self._kept.pop(each) for each in hashes]
        self._free += rows
        return self._rows[torch.tensor(rows)]

    def give(self, hashes: Sequence[int], contents: Tensor, blocks: Sequence[int]) -> None:
        """Write the contents to these unused blocks of the cache, and register them for prefix matching."""
        self._cache.index_copy_(0, self._ids(blocks), contents.to(self._cache.device))
        if self._cache.is_cuda:
            torch.cuda.synchronize(self._cache.device)  # the next step runs on another stream
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
