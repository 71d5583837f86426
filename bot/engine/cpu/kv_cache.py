"""The KV cache on a CPU: a row for every conversation, kept between its turns.

In: the ids of a prompt. Out: a row that already holds the keys and values of as many of them as any row has. Promise:
all rows together take no more than the blocks they were given, if no more is asked for by those in use; what is not in
use goes when room is needed, whoever rested longest first. For one thread.

Rows of like size lie side by side in a `Slab`, so that one call of the attention reads many of them.
"""

import math
import mmap
from bisect import insort
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor

BLOCK = 64
"""Tokens; what rows take is counted in blocks."""
SMALLEST = 4
"""Blocks of the smallest rows; others have twice, four times, ... as many."""
PLACES = 16
"""Rows of a slab at most."""
LITTLE = 16
"""Tokens that a conversation may lose when another one goes on in its row; with more, that one gets a copy."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the keys (or values) of one token, and their type."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        """What a token takes in each layer."""
        return 2 * self.heads * self.width * self.dtype.itemsize


class Slab:
    """Rows of `blocks` blocks side by side. Memory is taken as tokens come, and given back with their row.

    It is the system's own: malloc would keep holes of all sizes.
    """

    def __init__(self, shape: Shape, places: int, blocks: int) -> None:
        """Raises MemoryError."""
        self.blocks = blocks
        self.places = places
        self.free = list(range(places))
        room = (places, 2 * shape.layers, shape.heads, blocks * BLOCK, shape.width)
        try:
            self._memory = mmap.mmap(-1, math.prod(room) * shape.dtype.itemsize, access=mmap.ACCESS_COPY)  # private
        except OSError as error:
            raise MemoryError(f"the system gives no more memory to the KV cache ({error.strerror})") from error
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with suppress(OSError):  # a kernel without huge pages
                self._memory.madvise(mmap.MADV_NOHUGEPAGE)  # one token would take all of a huge page
        self.held = torch.frombuffer(self._memory, dtype=shape.dtype).view(room)
        self.layers = self.held.unbind(1)
        """Of each layer keys, then values: [places, heads, tokens, width]."""

    def leave(self, place: int) -> None:
        """Free a place, and give the system its memory."""
        insort(self.free, place)
        row = len(self._memory) // self.places
        start = -(-place * row // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = ((place + 1) * row - start) // mmap.PAGESIZE * mmap.PAGESIZE
        if whole > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED, start, whole)


@dataclass(slots=True, eq=False)
class Row:
    """One conversation. ids: the tokens whose keys and values it holds. most: tokens that it may come to hold.

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
        """What it takes, or may come to take."""
        return blocks_for(self.most if self.in_use else self.touched)

    @property
    def where(self) -> tuple[int, int]:
        """Sorts rows so that neighbours come together."""
        return id(self.slab), self.place

    @property
    def held(self) -> Tensor:
        """[2 x layers, heads, tokens, width]."""
        return self.slab.held[self.place]


class Rows:
    """All rows; at most `blocks` blocks."""

    def __init__(self, shape: Shape, blocks: int) -> None:
        self.blocks = blocks
        self._shape = shape
        self._rows: list[Row] = []  # who rested longest comes first
        self._slabs: list[Slab] = []

    @property
    def free(self) -> int:
        """Blocks that nobody uses now; from any thread."""
        return self.blocks - sum(row.blocks for row in tuple(self._rows) if row.in_use)

    def take(self, ids: Sequence[int], most: int) -> Row:
        """A row for a prompt, which holds what is known of it, and never all: its last token is to be computed.

        most: tokens that it may come to hold. Raises MemoryError if those in use take all there is, or the system gives
        no more.
        """
        wanted = list(ids[:-1])
        best, known = None, 0
        for row in self._rows:
            common = _common(row.ids, wanted)
            if common > known:
                best, known = row, common
        # One that would lose much is another conversation with the same beginning: it is copied, if there is room for
        # both.
        over = best is not None and not best.in_use and (len(best.ids) - known <= LITTLE or not self._fits(best, most))
        if best is not None and over and best.blocks <= blocks_for(most) <= best.slab.blocks:
            del best.ids[known:]
            best.in_use, best.most = True, most
            self._make_room(0)
            return best
        if best is not None and over:
            self._rows.remove(best)  # it moves, and counts once
        self._make_room(blocks_for(most), best)
        row = self._place(most)
        if best is not None:
            row.held[:, :, :known] = best.held[:, :, :known]
            row.ids = best.ids[:known]
            if over:
                self._leave(best)
        self._rows.append(row)
        return row

    def rest(self, row: Row) -> None:
        """Nobody generates in this row any more; it is kept as long as there is room."""
        row.touched = max(row.touched, len(row.ids))
        row.in_use = False
        self._rows.remove(row)
        if row.ids:
            self._rows.append(row)
        else:
            self._leave(row)

    def _fits(self, beside: Row, tokens: int) -> bool:
        """Whether there is room for a row of so many tokens while that one, which rests, stays."""
        return self.free - beside.blocks >= blocks_for(tokens)

    def _make_room(self, blocks: int, last: Row | None = None) -> None:
        """See to it that so many blocks are not taken by any row. last: one that goes only after all others."""
        room = self.blocks - sum(row.blocks for row in self._rows)
        for row in sorted((row for row in self._rows if not row.in_use), key=lambda row: row is last):
            if room >= blocks:
                return
            room += row.blocks
            self._rows.remove(row)
            self._leave(row)
        if room < blocks:
            raise MemoryError("not enough memory in the KV cache for this step")

    def _place(self, most: int) -> Row:
        """A place for a row, the first that is free, so that those in use lie close together."""
        blocks = max(SMALLEST, 1 << (blocks_for(most) - 1).bit_length())
        slab = next((slab for slab in self._slabs if slab.blocks == blocks and slab.free), None)
        if slab is None:
            slab = self._slab(max(1, min(PLACES, 2 * self.blocks // blocks)), blocks)
            self._slabs.append(slab)
        return Row(slab, slab.free.pop(0), most)

    def _slab(self, places: int, blocks: int) -> Slab:
        """With fewer places where the system does not promise so much memory at once."""
        try:
            return Slab(self._shape, places, blocks)
        except MemoryError:
            if places == 1:
                raise
        return self._slab(places // 2, blocks)

    def _leave(self, row: Row) -> None:
        row.slab.leave(row.place)
        if len(row.slab.free) == row.slab.places:
            self._slabs.remove(row.slab)


def blocks_for(tokens: int) -> int:
    """Blocks that so many tokens take."""
    return -(-tokens // BLOCK)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids they begin with that are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
