"""Stores the rows of a KV cache on a GPU as spans of one flat buffer, which attention reads at each row's offset.

A row in use has a span for all tokens that it may grow to; an idle one is cut to the blocks that it fills. Free space
is what no span covers. Where it is in pieces, spans are moved together, which costs one copy of the cache at most, so
the number of free blocks alone decides what fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bot.engine.batching.row_cache import BLOCK, MAX_DISCARDED, CachedSequence, RowCache, Shape, blocks_for
from bot.engine.gpu.row_offload import RowOffload

PIECE = 256
"""Tokens that are moved at once; each piece needs a temporary copy."""


@dataclass(slots=True, eq=False)
class FlatSequence(CachedSequence):
    """A row in a span of the buffer: `size` tokens from `start`."""

    start: int = field(kw_only=True)
    size: int = field(kw_only=True)

    @property
    def where(self) -> tuple[int, int]:
        return 0, self.start


class FlatCache(RowCache[FlatSequence]):
    """A KV cache of `blocks` blocks, and one slot more for tokens that belong to no row."""

    def __init__(self, shape: Shape, blocks: int, device: torch.device, offload: int = 0) -> None:
        """offload: bytes of RAM for evicted rows. Raises an out-of-memory error if the cache does not fit."""
        super().__init__(blocks)
        self.unused_slot = blocks * BLOCK
        """The slot of tokens that belong to no row."""
        self.held = torch.zeros(
            (2 * shape.layers, self.unused_slot + 1, shape.heads, shape.width), dtype=shape.dtype, device=device
        )
        self.layers = self.held.unbind(0)
        """Keys and values of each layer, alternating: [slots, heads, width]."""
        self.offload = RowOffload(offload)

    def held_by(self, row: FlatSequence) -> Tensor:
        """A row's keys and values, [2 x layers, tokens of its span, heads, width]."""
        return self.held[:, row.start : row.start + row.size]

    def allocate(self, ids: Sequence[int], most: int) -> FlatSequence:
        """As RowCache.allocate; the longest prefix may also come from RAM."""
        offloaded, tokens = self.offload.find(ids[:-1])
        row = super().allocate(ids, most)
        if offloaded is not None and tokens > len(row.ids):
            self.offload.restore(offloaded, self.held_by(row), len(row.ids), tokens)
            row.ids = list(ids[:tokens])
        return row

    def release(self, row: FlatSequence) -> None:
        row.touched = 0  # its span is cut to what it holds
        super().release(row)
        row.size = blocks_for(len(row.ids)) * BLOCK

    def _can_stay(self, row: FlatSequence, most: int) -> bool:
        return True  # _grow moves it where it must

    def _truncate(self, row: FlatSequence, tokens: int) -> None:
        if len(row.ids) - tokens > MAX_DISCARDED:
            self._evict(row)
        super()._truncate(row, tokens)

    def _grow(self, row: FlatSequence) -> None:
        size = blocks_for(row.most) * BLOCK
        end = min((other.start for other in self._rows if other.start > row.start), default=self.unused_slot)
        if row.start + size > end:
            start = self._hole(size)
            if start is None:
                self._compact(row, size)
            else:
                self._move(row, start)
        row.size = size

    def _place(self, most: int) -> FlatSequence:
        size = blocks_for(most) * BLOCK
        start = self._hole(size)
        return FlatSequence(most, start=self._compact() if start is None else start, size=size)

    def _copy(self, source: FlatSequence, target: FlatSequence, tokens: int) -> None:
        self.held_by(target)[:, :tokens] = self.held_by(source)[:, :tokens]

    def _evict(self, row: FlatSequence) -> None:
        self.offload.keep(row.ids, self.held_by(row))

    def _drop(self, row: FlatSequence) -> None:
        return None  # what no row covers is free

    def _hole(self, size: int) -> int | None:
        """Return the start of the first free space of so many tokens."""
        end = 0
        for row in sorted(self._rows, key=lambda row: row.start):
            if row.start - end >= size:
                return end
            end = row.start + row.size
        return end if self.unused_slot - end >= size else None

    def _compact(self, grown: FlatSequence | None = None, size: int = 0) -> int:
        """Move all rows together, and return where free space begins. grown: a row that gets `size` tokens."""
        targets, end = [], 0
        for row in sorted(self._rows, key=lambda row: row.start):
            targets.append((row, end))
            end += size if row is grown else row.size
        # Downwards from the first one and then upwards from the last one, no row is overwritten.
        for row, start in targets:
            if start < row.start:
                self._move(row, start)
        for row, start in reversed(targets):
            if start > row.start:
                self._move(row, start)
        return end

    def _move(self, row: FlatSequence, start: int) -> None:
        """Move a row's tokens; the old and the new place may overlap."""
        down = start < row.start
        pieces = range(0, len(row.ids), PIECE)
        for first in pieces if down else reversed(pieces):
            end = min(first + PIECE, len(row.ids))
            piece = self.held[:, row.start + first : row.start + end].clone()
            self.held[:, start + first : start + end] = piece
        row.start = start
