"""What one call of the attention sees: any number of tokens of one row, or one token each of rows side by side.

In: queries, keys and values of some of a line's tokens. Out: the outputs for them; the rows hold the new keys and
values. How much goes into one call is a matter of time only.
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
    """Tokens that go on where the row's own end. wanted: how many of them, the last ones, are to have logits."""

    row: Row
    ids: Sequence[int]
    wanted: int = 1


class Span(Protocol):
    """What one call of the attention sees. tokens: how many of the line's are its own."""

    tokens: int

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        """Of its tokens, [1, heads, tokens, width] each, to outputs [1, tokens, heads, width]."""
        ...


def spans_of(parts: Sequence[Part], call: int) -> list[Span]:
    """The calls for these parts, as `together` has it."""
    pieces = (parts[start:end] for start, end in together(parts, call))
    return [_One(piece[0]) if len(piece) == 1 else _Many(piece) for piece in pieces]


class _One:
    """Any number of tokens of one row."""

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
        # Heads that share keys are rows of one matrix, so that these are read once for all of them.
        heads, sharing = keys.shape[1], query.shape[1] // keys.shape[1]
        query = query.reshape(1, heads, sharing * self.tokens, -1)
        output = scaled_dot_product_attention(query, keys, values, self._mask(window, sharing), scale=scale)
        return output.view(1, heads * sharing, self.tokens, -1).transpose(1, 2)

    def _mask(self, window: int | None, sharing: int) -> Tensor | None:
        """None if all keys are seen."""
        if (window, sharing) not in self._masks:
            end = self._before + self.tokens
            everything = self.tokens == 1 and (window is None or end <= window)
            mask = None if everything else _mask(torch.arange(self._before, end), end, window, self._dtype)
            self._masks[window, sharing] = mask if mask is None else mask.repeat(sharing, 1)
        return self._masks[window, sharing]


class _Many:
    """One token each of rows side by side. Those between them that have none are read in vain."""

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
        """[places, 1, 1, keys]. A place without a token sees the first key."""
        if window not in self._masks:
            last = torch.zeros(self._end - self._first, dtype=torch.long)
            last[self._places - self._first] = self._befores
            self._masks[window] = _mask(last, self._longest, window, self._slab.held.dtype)[:, None, None]
        return self._masks[window]


def together(parts: Sequence[Part], call: int) -> Iterator[tuple[int, int]]:
    """Which parts are seen in one call, as [start, end): rows one after another in their slab, each with one token.

    Such a call reads as many keys of all places as the longest row has. call: keys that are read in the time that
    another call costs.
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
    """Zeros for the keys that each token sees, up to the place `last` has for it, else -inf: [tokens, keys].

    As numbers, since each layer's call would make them of bools anew.
    """
    last, key = last.unsqueeze(-1), torch.arange(keys)
    seen = key <= last
    if window is not None:
        seen &= key > last - window
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
