"""Stores the rows of a KV cache on a CPU.

Rows of similar size lie side by side in a `Slab`, so that one attention call reads many of them.
"""

import math
import mmap
from bisect import insort
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bot.engine.batching.row_cache import BLOCK, CachedSequence, RowCache, Shape, blocks_for

SMALLEST = 4
"""Blocks of the smallest rows; others have twice, four times, ... as many."""
PLACES = 16
"""Most rows of a slab."""


class Slab:
    """Rows of `blocks` blocks side by side. Memory is allocated as tokens arrive, and freed with the row.

    Uses mmap, because malloc would fragment.
    """

    def __init__(self, shape: Shape, places: int, blocks: int) -> None:
        """Raises MemoryError if the system refuses the memory."""
        self.blocks = blocks
        self.places = places
        self.free = list(range(places))
        room = (places, 2 * shape.layers, shape.heads, blocks * BLOCK, shape.width)
        try:
            self._memory = mmap.mmap(-1, math.prod(room) * shape.dtype.itemsize, access=mmap.ACCESS_COPY)  # private
        except OSError as error:
            raise MemoryError(f"the system gives no more memory to the KV cache ({error.strerror})") from error
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with suppress(OSError):  # kernel without huge pages
                self._memory.madvise(mmap.MADV_NOHUGEPAGE)  # one token would allocate a whole huge page
        self.held = torch.frombuffer(self._memory, dtype=shape.dtype).view(room)
        self.layers = self.held.unbind(1)
        """Keys and values of each layer, alternating: [places, heads, tokens, width]."""

    def free_place(self, place: int) -> None:
        """Free a place, and return its memory to the system."""
        insort(self.free, place)
        row = len(self._memory) // self.places
        start = -(-place * row // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = ((place + 1) * row - start) // mmap.PAGESIZE * mmap.PAGESIZE
        if whole > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED, start, whole)


@dataclass(slots=True, eq=False)
class SlabSequence(CachedSequence):
    """A row in a place of a slab."""

    slab: Slab = field(kw_only=True)
    place: int = field(kw_only=True)

    @property
    def where(self) -> tuple[int, int]:
        return id(self.slab), self.place

    @property
    def held(self) -> Tensor:
        """Its keys and values, [2 x layers, heads, tokens, width]."""
        return self.slab.held[self.place]


class KVCache(RowCache[SlabSequence]):
    """A KV cache of at most `blocks` blocks."""

    def __init__(self, shape: Shape, blocks: int) -> None:
        super().__init__(blocks)
        self._shape = shape
        self._slabs: list[Slab] = []

    def _can_stay(self, row: SlabSequence, most: int) -> bool:
        return row.blocks <= blocks_for(most) <= row.slab.blocks

    def _copy(self, source: SlabSequence, target: SlabSequence, tokens: int) -> None:
        target.held[:, :, :tokens] = source.held[:, :, :tokens]

    def _place(self, most: int) -> SlabSequence:
        """Allocate the first free place for a row, so that rows in use lie close together."""
        blocks = max(SMALLEST, 1 << (blocks_for(most) - 1).bit_length())
        slab = next((slab for slab in self._slabs if slab.blocks == blocks and slab.free), None)
        if slab is None:
            slab = self._slab(max(1, min(PLACES, 2 * self.blocks // blocks)), blocks)
            self._slabs.append(slab)
        return SlabSequence(most, slab=slab, place=slab.free.pop(0))

    def _slab(self, places: int, blocks: int) -> Slab:
        """Allocate a slab, with fewer places if the system refuses that much memory at once."""
        try:
            return Slab(self._shape, places, blocks)
        except MemoryError:
            if places == 1:
                raise
        return self._slab(places // 2, blocks)

    def _drop(self, row: SlabSequence) -> None:
        row.slab.free_place(row.place)
        if len(row.slab.free) == row.slab.places:
            self._slabs.remove(row.slab)
