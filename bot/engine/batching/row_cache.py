"""Keeps rows of keys and values between the turns of conversations; a subclass stores them on a device.

A prompt gets a row that already holds the keys and values of its longest cached prefix. All rows together take no more
than the given blocks: idle rows are evicted, least recently used first, and a row that does not fit beside the rows in
use raises MemoryError. Not thread-safe.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from transformers import PreTrainedModel
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

BLOCK = 64
"""Tokens per block, the unit in which rows are counted."""
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


def shape_of(model: PreTrainedModel) -> Shape:
    """Return the shape of one token's keys and values."""
    config = model.config.get_text_config()
    heads, width = int(find_num_key_value_heads(config)), int(find_head_dim(config))
    return Shape(int(config.num_hidden_layers), heads, width, model.dtype)


@dataclass(slots=True, eq=False)
class CachedSequence:
    """One row of the cache. most: tokens that it may grow to. ids: the tokens whose keys and values it holds.

    touched: the most tokens that it ever held in its place.
    """

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
        raise NotImplementedError


R = TypeVar("R", bound=CachedSequence)


class RowCache(ABC, Generic[R]):
    """Rows of at most `blocks` blocks together."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._rows: list[R] = []  # least recently used first

    def __iter__(self) -> Iterator[R]:
        """Iterate over the sequences, least recently used first."""
        return iter(self._rows)

    @property
    def free(self) -> int:
        """Blocks that no row in use takes; safe from any thread."""
        return self.blocks - sum(row.blocks for row in tuple(self._rows) if row.in_use)

    def allocate(self, ids: Sequence[int], most: int) -> R:
        """Return a row for a prompt that holds its longest cached prefix.

        The last token is never included, because it must be computed. most: tokens that it may grow to. Raises
        MemoryError if the rows in use take all blocks, or the system has no more memory.
        """
        wanted = list(ids[:-1])
        best, known = None, 0
        for row in self._rows:
            common = common_prefix(row.ids, wanted)
            if common > known:
                best, known = row, common
        # A row with many other tokens is another conversation with the same beginning: copies it if both fit.
        reuse = (
            best is not None
            and not best.in_use
            and (len(best.ids) - known <= MAX_DISCARDED or not self._fits(best, most))
        )
        if best is not None and reuse and self._can_stay(best, most):
            self._truncate(best, known)
            best.in_use, best.most = True, most
            self._make_room(0)
            self._grow(best)
            return best
        if best is not None and reuse:
            self._rows.remove(best)  # it moves: must not count twice
        self._make_room(blocks_for(most), best)
        row = self._place(most)
        if best is not None:
            self._copy(best, row, known)
            row.ids = best.ids[:known]
            if reuse:
                self._drop(best)
        self._rows.append(row)
        return row

    def release(self, row: R) -> None:
        """Mark a row as idle; it stays cached as long as there is room."""
        row.touched = max(row.touched, len(row.ids))
        row.in_use = False
        self._rows.remove(row)
        if row.ids:
            self._rows.append(row)
        else:
            self._drop(row)

    def _fits(self, beside: R, tokens: int) -> bool:
        """Whether a row of so many tokens fits while the idle row `beside` stays."""
        return self.free - beside.blocks >= blocks_for(tokens)

    def _make_room(self, blocks: int, last: R | None = None) -> None:
        """Evict idle rows until so many blocks are free. last: evicted after all others. Raises MemoryError."""
        room = self.blocks - sum(row.blocks for row in self._rows)
        for row in sorted((row for row in self._rows if not row.in_use), key=lambda row: row is last):
            if room >= blocks:
                return
            room += row.blocks
            self._rows.remove(row)
            self._evict(row)
        if room < blocks:
            raise MemoryError("not enough memory in the KV cache for this step")

    @abstractmethod
    def _can_stay(self, row: R, most: int) -> bool:
        """Whether an idle row may grow to so many tokens where it is."""

    def _truncate(self, row: R, tokens: int) -> None:
        """Discard all but the first tokens of an idle row."""
        del row.ids[tokens:]

    def _grow(self, row: R) -> None:
        """Give a row that stays the room for all tokens that it may grow to; there are enough free blocks for it."""
        return

    def _evict(self, row: R) -> None:
        """Free an idle row's place for another row."""
        self._drop(row)

    @abstractmethod
    def _place(self, most: int) -> R:
        """Make a row for so many tokens; there are enough free blocks for it."""

    @abstractmethod
    def _copy(self, source: R, target: R, tokens: int) -> None:
        """Copy the first keys and values of one row to another."""

    @abstractmethod
    def _drop(self, row: R) -> None:
        """Free a row's place."""


def blocks_for(tokens: int) -> int:
    """Return the blocks that so many tokens take."""
    return -(-tokens // BLOCK)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
