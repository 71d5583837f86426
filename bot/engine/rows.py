"""The KV cache on a CPU: a row for every conversation, kept between its turns.

In: the ids of a prompt. Out: a row that already holds the keys and values of as many of them as any row has. Promise:
all rows together take no more than the blocks they were given, if no more is asked for by those in use; what is not in
use goes when room is needed, whoever rested longest first. For one thread.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from mmap import ACCESS_COPY, mmap

import torch
from torch import Tensor

BLOCK = 64
"""Tokens; rows have whole blocks."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the keys (or values) of one token, and their type."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype

    def room(self, blocks: int) -> Tensor:
        """Room for so many blocks of tokens: [2 x layers, 1, heads, tokens, width], of each layer keys, then values.

        It is the system's own, and goes back to it at once: malloc would keep holes of all sizes. Raises MemoryError.
        """
        shape = (2 * self.layers, 1, self.heads, blocks * BLOCK, self.width)
        try:
            memory = mmap(-1, math.prod(shape) * self.dtype.itemsize, access=ACCESS_COPY)  # private
        except OSError as error:
            raise MemoryError(f"the system gives no more memory to the KV cache ({error.strerror})") from error
        return torch.frombuffer(memory, dtype=self.dtype).view(shape)


@dataclass(slots=True, eq=False)
class Row:
    """One conversation. ids: the tokens whose keys and values it holds; held: these, shaped as `Shape.room` says.

    most: tokens that it may come to hold.
    """

    ids: list[int] = field(default_factory=list)
    most: int = 0
    blocks: int = 0
    in_use: bool = False
    held: Tensor = field(default_factory=lambda: torch.empty(0))

    def places(self, start: int, tokens: int) -> Sequence[Tensor]:
        """Where so many tokens from `start` are: of the first layer the keys, then the values, and so on."""
        return self.held.narrow(3, start, tokens).unbind(0)


class Rows:
    """All rows; at most `blocks` blocks."""

    def __init__(self, shape: Shape, blocks: int) -> None:
        self.blocks = blocks
        self._shape = shape
        self._rows: list[Row] = []  # who rested longest comes first

    @property
    def free(self) -> int:
        """Blocks that nobody uses now; from any thread."""
        return self.blocks - sum(row.blocks for row in tuple(self._rows) if row.in_use)

    def take(self, ids: Sequence[int], most: int) -> Row:
        """A row for a prompt, which holds what is known of it, and never all: its last token is to be computed.

        It has room for the whole prompt. most: tokens that it may come to hold. Raises MemoryError as `grow`.
        """
        wanted = list(ids[:-1])
        best, known = None, 0
        for row in self._rows:
            common = _common(row.ids, wanted)
            if common > known:
                best, known = row, common
        # One that would lose most of what it holds is another conversation with the same beginning: it is copied, if
        # there is room for both.
        if best is not None and not best.in_use and (2 * known >= len(best.ids) or not self._fits(best, len(ids))):
            del best.ids[known:]
            if best.blocks > blocks_for(most):
                self._resize(best, blocks_for(most))
            best.in_use, best.most = True, most
            self.grow(best, len(ids))
            return best
        row = Row(in_use=True, most=most)
        self._rows.append(row)
        if best is not None:
            self._copy(best, row, known, len(ids))
        self.grow(row, len(ids))
        return row

    def grow(self, row: Row, tokens: int) -> None:
        """See to it that a row has room for so many tokens. Raises MemoryError if those in use take all there is.

        A row that grows is copied, so it grows by a quarter at least, if it may come to hold as much.
        """
        blocks = blocks_for(tokens)
        if blocks <= row.blocks:
            return
        blocks = max(blocks, min(blocks_for(row.most), row.blocks + row.blocks // 4))
        self._make_room(blocks - row.blocks, row)
        self._resize(row, blocks)

    def rest(self, row: Row) -> None:
        """Nobody generates in this row any more; it is kept as long as there is room.

        One that was stopped while its prompt was read gives back the room that it has not used.
        """
        row.in_use = False
        self._rows.remove(row)
        if row.ids:
            if row.blocks > 2 * blocks_for(len(row.ids)):
                self._resize(row, blocks_for(len(row.ids)))
            self._rows.append(row)

    def _fits(self, beside: Row, tokens: int) -> bool:
        """Whether there is room for a row of so many tokens while that one, which rests, stays."""
        return self.free - beside.blocks >= blocks_for(tokens)

    def _copy(self, source: Row, row: Row, tokens: int, room: int) -> None:
        resting, source.in_use = source.in_use, True  # it must not go now
        try:
            self.grow(row, room)
        finally:
            source.in_use = resting
        row.held[:, :, :, :tokens] = source.held[:, :, :, :tokens]
        row.ids = source.ids[:tokens]

    def _make_room(self, blocks: int, row: Row) -> None:
        room = self.blocks - sum(each.blocks for each in self._rows)
        for each in [each for each in self._rows if not each.in_use and each is not row]:
            if room >= blocks:
                return
            self._rows.remove(each)
            room += each.blocks
        if room < blocks:
            raise MemoryError("not enough memory in the KV cache for this step")

    def _resize(self, row: Row, blocks: int) -> None:
        held, tokens = self._shape.room(blocks), len(row.ids)
        if tokens:
            held[:, :, :, :tokens] = row.held[:, :, :, :tokens]
        row.held, row.blocks = held, blocks


def blocks_for(tokens: int) -> int:
    """Blocks that so many tokens take."""
    return -(-tokens // BLOCK)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids they begin with that are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
