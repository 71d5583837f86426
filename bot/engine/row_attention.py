"""Attention over rows: the model's own code computes one line of tokens, and each part of it sees its own row only.

In: a `Step`, which says whose tokens stand where in the line; it travels through the model's forward as the keyword
`step`. Out: the attention's output for the whole line; the rows hold the new keys and values. Registered with
transformers under NAME.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from bot.engine.rows import Row

NAME = "inhouse-rows"


@dataclass(frozen=True, slots=True)
class Part:
    """`count` tokens in the line, which go on where the row's own `before` tokens end."""

    row: Row
    before: int
    count: int

    def mask(self, window: int | None) -> Tensor | None:
        """Which keys each token sees, bool [count, keys]; None if it is all of them."""
        keys = self.before + self.count
        if self.count == 1 and (window is None or keys <= window):
            return None
        at = torch.arange(self.before, keys).unsqueeze(-1)
        key = torch.arange(keys)
        seen = key <= at
        return seen if window is None else seen & (key > at - window)


class Step:
    """One pass through the model."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.counts = [part.count for part in parts]
        self._masks: dict[int | None, list[Tensor | None]] = {}

    def masks(self, window: int | None) -> list[Tensor | None]:
        """A mask for each part, made once a step for all layers with this window."""
        if window not in self._masks:
            self._masks[window] = [part.mask(window) for part in self.parts]
        return self._masks[window]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    step: Step,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **more: Any,  # whatever else a model hands to its attention
) -> tuple[Tensor, None]:
    """Queries [1, heads, tokens, width] to outputs [1, tokens, heads, width]; keys and values go into their rows.

    Raises ValueError for what this attention does not know.
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("its attention has parts that are not known here")
    layer: Any = module.layer_idx  # an int, which nn.Module does not declare
    both = torch.stack((key, value))
    outputs = []
    queries, news = torch.split(query, step.counts, 2), torch.split(both, step.counts, 3)
    for part, q, kv, mask in zip(step.parts, queries, news, step.masks(sliding_window), strict=True):
        held = part.row.layers[layer]
        held.narrow(3, part.before, part.count).copy_(kv)
        k, v = held.narrow(3, 0, part.before + part.count).unbind(0)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=True)
        outputs.append(out.transpose(1, 2))
    return torch.cat(outputs, 1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)  # each part has its own
