"""Holds the inputs of a step over rows of a FlatCache in tensors whose addresses never change.

So a CUDA graph that was captured over them can be replayed with other inputs. Every step is padded to one of the
STEP_SIZES; padding writes to the cache's unused slot and is attended to by nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bot.engine.batching.row_batch import SequenceChunk
from bot.engine.gpu.flat_cache import FlatCache, FlatSequence

MAX_ROWS = 32
"""Most rows of a step."""
MAX_DRAFT_TOKENS = 16
"""Most draft tokens of a step, of all answers together."""

Chunk = SequenceChunk[FlatSequence]


@dataclass(frozen=True, slots=True)
class StepSize:
    """The size of a step. tokens: of all rows. wanted: tokens that get logits. decode: one token of each row."""

    tokens: int
    wanted: int
    decode: bool

    @property
    def rows(self) -> int:
        """Rows of the attention; in a mixed step the last one is that of the padding."""
        return self.tokens if self.decode else MAX_ROWS + 1


STEP_SIZES = (
    *(StepSize(rows, rows, True) for rows in (1, 2, 4, 8, 16, MAX_ROWS)),
    StepSize(64, MAX_ROWS + MAX_DRAFT_TOKENS, False),  # draft tokens need logits, too
    *(StepSize(tokens, MAX_ROWS, False) for tokens in (128, 256, 512)),
)
MOST_TOKENS = STEP_SIZES[-1].tokens


def size_of(chunks: Sequence[Chunk]) -> StepSize:
    """Return the smallest size for these chunks."""
    tokens, wanted = sum(len(chunk.ids) for chunk in chunks), sum(chunk.wanted for chunk in chunks)
    decode = all(len(chunk.ids) == chunk.wanted == 1 for chunk in chunks)
    return next(
        size for size in STEP_SIZES if size.tokens >= tokens and (decode if size.decode else size.wanted >= wanted)
    )


@dataclass(frozen=True, slots=True)
class Span:
    """A row's part of a step: its tokens [first, end) of the step, and the slots [start, start + used) of its keys."""

    first: int
    end: int
    start: int
    used: int


class FlatStep:
    """The inputs of one step size.

    ids, positions, slots: int64 [tokens]; slots receive the tokens' keys and values. wanted: int64 [wanted], the tokens
    that get logits. ends: int32 [rows + 1], where each row's tokens end, from 0. starts: int32 [rows + 1] and used:
    int32 [rows], the slots of each row's keys. spans: the rows as numbers, for attention that no graph captures.
    """

    def __init__(self, size: StepSize, cache: FlatCache) -> None:
        self.size = size
        self.layers = cache.layers
        self.spans: list[Span] = []
        self.masks: dict[tuple[Span, int | None], Tensor] = {}
        """Masks of the spans and sliding windows, which layers share."""
        self._unused = cache.unused_slot
        on_gpu = cache.held.is_cuda
        longs, ints = 3 * size.tokens + size.wanted, 3 * size.rows + 2
        self._host = torch.zeros(longs + (ints + 1) // 2, dtype=torch.int64, pin_memory=on_gpu)
        self._inputs = torch.zeros_like(self._host, device=cache.held.device)
        self.ids, self.positions, self.slots, self.wanted = self._inputs[:longs].split(
            [size.tokens, size.tokens, size.tokens, size.wanted]
        )
        self.ends, self.starts, self.used = (
            self._inputs[longs:].view(torch.int32)[:ints].split([size.rows + 1, size.rows + 1, size.rows])
        )
        self._longs, self._ints = self._host[:longs], self._host[longs:].view(torch.int32)[:ints]

    def fill(self, chunks: Sequence[Chunk]) -> None:
        """Set the inputs, in one copy to the device that does not wait for it."""
        tokens, rows = self.size.tokens, self.size.rows
        ids, positions, slots, wanted = list[int](), list[int](), list[int](), list[int]()
        self.spans, self.masks = [], {}
        for chunk in chunks:
            row, before, first = chunk.row, len(chunk.row.ids), len(ids)
            ids += chunk.ids
            positions += range(before, before + len(chunk.ids))
            slots += range(row.start + before, row.start + before + len(chunk.ids))
            wanted += range(len(ids) - chunk.wanted, len(ids))
            self.spans.append(Span(first, len(ids), row.start, before + len(chunk.ids)))
        padding = tokens - len(ids)
        ends = [0, *(span.end for span in self.spans)]
        # In a decode step each token of the padding is a row of its own, else all of them together are one row.
        ends += range(len(ids) + 1, tokens + 1) if self.size.decode else [tokens] * (rows + 1 - len(ends))
        starts = [span.start for span in self.spans]
        used = [span.used for span in self.spans]
        starts += [self._unused] * (rows + 1 - len(starts))
        used += [1] * (rows - len(used))
        ids += [0] * padding
        positions += [0] * padding
        slots += [self._unused] * padding
        wanted += [0] * (self.size.wanted - len(wanted))
        self._longs.copy_(torch.tensor(ids + positions + slots + wanted))
        self._ints.copy_(torch.tensor(ends + starts + used, dtype=torch.int32))
        self._inputs.copy_(self._host, non_blocking=True)
