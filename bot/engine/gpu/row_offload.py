"""Keeps rows evicted from a GPU's KV cache in RAM, until a prompt begins with them.

Takes no more than the given bytes; drops the least recently used rows first. Runs on the batch's own thread, between
two steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bot.engine.batching.row_cache import MAX_DISCARDED, common_prefix


@dataclass(slots=True, eq=False)
class OffloadedRow:
    """Tokens, and their keys and values: [2 x layers, tokens, heads, width] in RAM."""

    ids: list[int]
    held: Tensor


class RowOffload:
    """Rows in RAM. limit: bytes, allocated as rows arrive."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: list[OffloadedRow] = []  # least recently used first

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def taken(self) -> int:
        """Bytes that the rows take; safe from any thread."""
        return sum(row.held.nbytes for row in tuple(self._rows))

    def keep(self, ids: Sequence[int], held: Tensor) -> None:
        """Copy a row [2 x layers, tokens, heads, width] to RAM, or as much of its beginning as fits."""
        tokens = min(len(ids), self._limit // (held.nbytes // held.size(1)))
        ids = list(ids[:tokens])
        if not ids or any(common_prefix(row.ids, ids) == tokens for row in self._rows):
            return
        self._rows = [row for row in self._rows if common_prefix(row.ids, ids) < len(row.ids)]
        kept = torch.empty((held.size(0), tokens, *held.shape[2:]), dtype=held.dtype)
        while self._rows and self.taken + kept.nbytes > self._limit:
            del self._rows[0]
        for source, target in zip(held, kept, strict=True):  # a copy of all layers at once would need GPU memory
            target.copy_(source[:tokens])
        self._rows.append(OffloadedRow(ids, kept))

    def find(self, ids: Sequence[int]) -> tuple[OffloadedRow | None, int]:
        """Return the row with the longest common prefix, and the length of that."""
        lengths = [common_prefix(row.ids, ids) for row in self._rows]
        most = max(lengths, default=0)
        return (self._rows[lengths.index(most)], most) if most else (None, 0)

    def restore(self, row: OffloadedRow, held: Tensor, start: int, end: int) -> None:
        """Copy the row's tokens from `start` to `end` to a row of the cache.

        Drops it if only that row goes on with it, and marks it as most recently used otherwise.
        """
        for source, target in zip(row.held, held, strict=True):
            target[start:end].copy_(source[start:end])
        others = [other for other in self._rows if other is not row]
        kept, self._rows = len(others) < len(self._rows), others  # other rows may have replaced it since `find`
        if kept and len(row.ids) - end > MAX_DISCARDED:  # another conversation with the same beginning
            self._rows.append(row)
