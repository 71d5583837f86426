"""Groups a step's tokens into attention calls: any number of tokens of one row, or one token each of adjacent rows.

Each call writes the new keys and values to the rows and returns the outputs of its tokens. The grouping affects speed
only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bot.engine.cpu.kv_cache import Row


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens that continue a row. wanted: how many of the last ones need logits."""

    row: Row
    ids: Sequence[int]
    wanted: int = 1


class Span(Protocol):
    """One attention call. tokens: how many of the step's tokens belong to it."""

    tokens: int

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        """Compute attention for its tokens: inputs [1, heads, tokens, width], outputs [1, tokens, heads, width]."""
        ...


def spans_of(parts: Sequence[Part], call: int) -> list[Span]:
    """Return the attention calls for these parts, grouped by `group_decode_rows`."""
    pieces = (parts[start:end] for start, end in group_decode_rows(parts, call))
    return [_One(piece[0]) if len(piece) == 1 else _Many(piece) for piece in pieces]


class _One:
    """Attention call for any number of tokens of one row."""

    def __init__(self, part: Part) -> None:
        row = part.row
        self._before, self.tokens, self._dtype = len(row.ids), len(part.ids), row.held.dtype
        end = self._before + self.tokens
        self._new = row.held[:, :, self._before : end].unbind(0)
        self._seen = row.held[:, None, :, :end].unbind(0)
        self._masks: dict[tuple[int | None, int], Tensor | None] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        torch._foreach_copy_(self._new[2 * layer : 2 * layer + 2], (key[0], value[0]))
        keys, values = self._seen[2 * layer : 2 * layer + 2]
        # Query heads that share keys become rows of one matrix, so that the keys are read once.
        heads, sharing = keys.shape[1], query.shape[1] // keys.shape[1]
        query = query.reshape(1, heads, sharing * self.tokens, -1)
        output = scaled_dot_product_attention(query, keys, values, self._mask(window, sharing), scale=scale)
        return output.view(1, heads * sharing, self.tokens, -1).transpose(1, 2)

    def _mask(self, window: int | None, sharing: int) -> Tensor | None:
        """Return the mask, or None if all keys are visible."""
        if (window, sharing) not in self._masks:
            end = self._before + self.tokens
            everything = self.tokens == 1 and (window is None or end <= window)
            mask = None if everything else _mask(torch.arange(self._before, end), end, window, self._dtype)
            self._masks[window, sharing] = mask if mask is None else mask.repeat(sharing, 1)
        return self._masks[window, sharing]


class _Many:
    """Attention call for one token each of adjacent rows. Rows in between without a token are computed and ignored."""

    def __init__(self, parts: Sequence[Part]) -> None:
        places = [part.row.place for part in parts]
        befores = [len(part.row.ids) for part in parts]
        self._slab, self.tokens = parts[0].row.slab, len(parts)
        self._first, self._end, self._longest = places[0], places[-1] + 1, max(befores) + 1
        self._places, self._befores = torch.tensor(places), torch.tensor(befores)
        self._gaps = self._end - self._first > self.tokens
        self._masks: dict[int | None, Tensor] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        keys, values = self._slab.layers[2 * layer : 2 * layer + 2]
        keys[self._places, :, self._befores] = key[0].transpose(0, 1)
        values[self._places, :, self._befores] = value[0].transpose(0, 1)
        heads, sharing = keys.shape[1], query.shape[1] // keys.shape[1]
        asked = query[0].transpose(0, 1).reshape(self.tokens, heads, sharing, -1)
        if self._gaps:
            spread = asked.new_zeros(self._end - self._first, *asked.shape[1:])
            spread[self._places - self._first] = asked
            asked = spread
        seen = (slice(self._first, self._end), slice(None), slice(self._longest))
        mask = self._mask(window).expand(-1, -1, sharing, -1)
        output = scaled_dot_product_attention(asked, keys[seen], values[seen], mask, scale=scale)
        if self._gaps:
            output = output[self._places - self._first]
        return output.reshape(1, self.tokens, heads * sharing, -1)

    def _mask(self, window: int | None) -> Tensor:
        """Return the mask, [places, 1, 1, keys]. A place without a token sees the first key."""
        if window not in self._masks:
            last = torch.zeros(self._end - self._first, dtype=torch.long)
            last[self._places - self._first] = self._befores
            self._masks[window] = _mask(last, self._longest, window, self._slab.held.dtype)[:, None, None]
        return self._masks[window]


def group_decode_rows(parts: Sequence[Part], call: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of each call as [start, end): adjacent rows of one slab with one token each share a call.

    Such a call reads as many keys of every place as the longest row has. call: number of keys that are read in the time
    that another call costs.
    """
    start, longest = 0, 0
    for end, part in enumerate(parts):
        length, first = len(part.row.ids) + 1, parts[start].row.place
        joined = (part.row.place - first + 1) * max(longest, length)
        apart = (parts[end - 1].row.place - first + 1) * longest + call + length
        if end > start and not (_beside(parts[end - 1], part) and joined <= apart):
            yield start, end
            start, longest = end, 0
        longest = max(longest, length)
    yield start, len(parts)


def _beside(one: Part, other: Part) -> bool:
    return len(one.ids) == len(other.ids) == 1 and one.row.slab is other.row.slab and one.row.place < other.row.place


def _mask(last: Tensor, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """Return an additive mask [tokens, keys]: 0 for keys up to the token's place in `last`, else -inf.

    Floats, because each layer's call would convert bools again.
    """
    last, key = last.unsqueeze(-1), torch.arange(keys)
    seen = key <= last
    if window is not None:
        seen &= key > last - window
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
