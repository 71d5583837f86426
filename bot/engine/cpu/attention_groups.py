"""Groups a step's tokens into attention calls: many tokens of one sequence, or one token each of adjacent sequences.

Each call writes the new keys and values to the KV cache and returns the outputs of its tokens. The grouping affects
speed only.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bot.engine.batching.row_batch import SequenceChunk
from bot.engine.cpu.kv_cache import SlabSequence

Chunk = SequenceChunk[SlabSequence]


class AttentionCall(Protocol):
    """One attention call. tokens: how many of the step's tokens belong to it."""

    tokens: int

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        """Compute attention for its tokens: inputs [1, heads, tokens, width], outputs [1, tokens, heads, width]."""
        ...


def attention_calls(chunks: Sequence[Chunk], call: int) -> list[AttentionCall]:
    """Return the attention calls for these chunks, grouped by `group_decode_rows`."""
    pieces = (chunks[start:end] for start, end in group_decode_rows(chunks, call))
    return [_SequenceCall(piece[0]) if len(piece) == 1 else _DecodeCall(piece) for piece in pieces]


class _SequenceCall:
    """Attention call for any number of tokens of one sequence."""

    def __init__(self, chunk: Chunk) -> None:
        row = chunk.row
        self._before, self.tokens, self._dtype = len(row.ids), len(chunk.ids), row.held.dtype
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
            mask = None if everything else attention_mask(torch.arange(self._before, end), end, window, self._dtype)
            self._masks[window, sharing] = mask if mask is None else mask.repeat(sharing, 1)
        return self._masks[window, sharing]


class _DecodeCall:
    """Attention call for one token each of adjacent rows; computes and ignores rows in between without a token."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        places = [chunk.row.place for chunk in chunks]
        befores = [len(chunk.row.ids) for chunk in chunks]
        self._slab, self.tokens = chunks[0].row.slab, len(chunks)
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
            self._masks[window] = attention_mask(last, self._longest, window, self._slab.held.dtype)[:, None, None]
        return self._masks[window]


def group_decode_rows(chunks: Sequence[Chunk], call: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks of each call as [start, end): adjacent rows of one slab with one token each share a call.

    Such a call reads as many keys of every place as the longest row has. call: number of keys that are read in the time
    that another call costs.
    """
    start, longest = 0, 0
    for end, chunk in enumerate(chunks):
        length, first = len(chunk.row.ids) + 1, chunks[start].row.place
        joined = (chunk.row.place - first + 1) * max(longest, length)
        apart = (chunks[end - 1].row.place - first + 1) * longest + call + length
        if end > start and not (_beside(chunks[end - 1], chunk) and joined <= apart):
            yield start, end
            start, longest = end, 0
        longest = max(longest, length)
    yield start, len(chunks)


def _beside(one: Chunk, other: Chunk) -> bool:
    return len(one.ids) == len(other.ids) == 1 and one.row.slab is other.row.slab and one.row.place < other.row.place


def attention_mask(last: Tensor, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """Return an additive mask [tokens, keys]: 0 for keys up to the token's place in `last`, else -inf.

    Floats, because each layer's call would convert bools again.
    """
    last, key = last.unsqueeze(-1), torch.arange(keys)
    seen = key <= last
    if window is not None:
        seen &= key > last - window
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
