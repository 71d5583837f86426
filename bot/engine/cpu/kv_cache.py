"""Keeps the KV cache on a CPU: one row per sequence, kept between the turns of its conversation.

A prompt gets a row that already holds the keys and values of its longest cached prefix. All rows together take no more
than the given blocks: idle rows are evicted, least recently used first, and a row that does not fit beside the rows in
use raises MemoryError. Not thread-safe.

Rows of similar size lie side by side in a `Slab`, so that one attention call reads many of them.
"""

import math
import mmap
from bisect import insort
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

BLOCK = 64
"""Tokens per block, the unit in which rows are counted."""
SMALLEST = 4
"""Blocks of the smallest rows; others have twice, four times, ... as many."""
PLACES = 16
"""Most rows of a slab."""
MAX_DISCARDED = 16
"""Most cached tokens that reuse in place may discard; else the row is copied."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Shape and dtype of one token's keys (or values)."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in each layer."""
        return 2 * self.heads * self.width * self.dtype.itemsize


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
class CachedSequence:
    """One row of the cache. ids: the tokens whose keys and values it holds. most: tokens that it may grow to.

    touched: the most tokens that it ever held in its place.
    """

    slab: Slab
    place: int
    most: int
    ids: list[int] = field(default_factory=list)
    touched: int = 0
    in_use: bool = True

    @property
    def blocks(self) -> int:
        """Blocks that it takes, or may grow to while it is in use."""
        return blocks_for(self.most if self.in_use else self.touched)

    @property
    def where(self) -> tuple[int, int]:
        """Sort key that puts adjacent rows together."""
        return id(self.slab), self.place

    @property
    def held(self) -> Tensor:
        """Its keys and values, [2 x layers, heads, tokens, width]."""
        return self.slab.held[self.place]


class KVCache:
    """A KV cache of at most `blocks` blocks."""

    def __init__(self, shape: Shape, blocks: int) -> None:
        self.blocks = blocks
        self._shape = shape
        self._rows: list[CachedSequence] = []  # least recently used first
        self._slabs: list[Slab] = []

    def __iter__(self) -> Iterator[CachedSequence]:
        """Iterate over the sequences, least recently used first."""
        return iter(self._rows)

    @property
    def free(self) -> int:
        """Blocks that no row in use takes; safe from any thread."""
        return self.blocks - sum(row.blocks for row in tuple(self._rows) if row.in_use)

    def allocate(self, ids: Sequence[int], most: int) -> CachedSequence:
        """Return a row for a prompt that holds its longest cached prefix.

        The last token is never included, because it must be computed. most: tokens that it may grow to. Raises
        MemoryError if the rows in use take all blocks, or the system has no more memory.
        """
        wanted = list(ids[:-1])
        best, known = None, 0
        for row in self._rows:
            common = _common(row.ids, wanted)
            if common > known:
                best, known = row, common
        # A row with many other tokens is another conversation with the same beginning: copies it if both fit.
        reuse = (
            best is not None
            and not best.in_use
            and (len(best.ids) - known <= MAX_DISCARDED or not self._fits(best, most))
        )
        if best is not None and reuse and best.blocks <= blocks_for(most) <= best.slab.blocks:
            del best.ids[known:]
            best.in_use, best.most = True, most
            self._make_room(0)
            return best
        if best is not None and reuse:
            self._rows.remove(best)  # it moves: must not count twice
        self._make_room(blocks_for(most), best)
        row = self._place(most)
        if best is not None:
            row.held[:, :, :known] = best.held[:, :, :known]
            row.ids = best.ids[:known]
            if reuse:
                self._drop(best)
        self._rows.append(row)
        return row

    def release(self, row: CachedSequence) -> None:
        """Mark a row as idle; it stays cached as long as there is room."""
        row.touched = max(row.touched, len(row.ids))
        row.in_use = False
        self._rows.remove(row)
        if row.ids:
            self._rows.append(row)
        else:
            self._drop(row)

    def _fits(self, beside: CachedSequence, tokens: int) -> bool:
        """Whether a row of so many tokens fits while the idle row `beside` stays."""
        return self.free - beside.blocks >= blocks_for(tokens)

    def _make_room(self, blocks: int, last: CachedSequence | None = None) -> None:
        """Evict idle rows until so many blocks are free. last: evicted after all others. Raises MemoryError."""
        room = self.blocks - sum(row.blocks for row in self._rows)
        for row in sorted((row for row in self._rows if not row.in_use), key=lambda row: row is last):
            if room >= blocks:
                return
            room += row.blocks
            self._rows.remove(row)
            self._drop(row)
        if room < blocks:
            raise MemoryError("not enough memory in the KV cache for this step")

    def _place(self, most: int) -> CachedSequence:
        """Allocate the first free place for a row, so that rows in use lie close together."""
        blocks = max(SMALLEST, 1 << (blocks_for(most) - 1).bit_length())
        slab = next((slab for slab in self._slabs if slab.blocks == blocks and slab.free), None)
        if slab is None:
            slab = self._slab(max(1, min(PLACES, 2 * self.blocks // blocks)), blocks)
            self._slabs.append(slab)
        return CachedSequence(slab, slab.free.pop(0), most)

    def _slab(self, places: int, blocks: int) -> Slab:
        """Allocate a slab, with fewer places if the system refuses that much memory at once."""
        try:
            return Slab(self._shape, places, blocks)
        except MemoryError:
            if places == 1:
                raise
        return self._slab(places // 2, blocks)

    def _drop(self, row: CachedSequence) -> None:
        row.slab.free_place(row.place)
        if len(row.slab.free) == row.slab.places:
            self._slabs.remove(row.slab)


def blocks_for(tokens: int) -> int:
    """Return the blocks that so many tokens take."""
    return -(-tokens // BLOCK)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
