"""Computes attention over the rows of a FlatCache, as an attention function that transformers calls under NAME.

Torch's own FlashAttention reads each row at its offset of the flat buffer (an undocumented use: `cu_seqlens_k` are
offsets, in any order, and `seqused_k` lengths), so one call serves all rows and a CUDA graph can hold it. Where it does
not run, scaled_dot_product_attention is called for each row.

NAME has no mask function, so transformers makes no mask; making one would wait for the GPU.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from bot.engine.batching.row_cache import Shape
from bot.engine.gpu.flat_step import FlatStep, Span

NAME = "inhouse-flat"


class Kernel(Enum):
    """How attention is computed, the fastest first.

    SPLIT: FlashAttention that packs the query heads of a group and splits the keys in decode steps. WHOLE: without
    either. BY_ROW: one call for each row; cannot be captured in a CUDA graph.
    """

    SPLIT = "split"
    WHOLE = "whole"
    BY_ROW = "by row"


@dataclass(frozen=True, slots=True)
class Step:
    """What models pass to the attention as the keyword `step`. longest: most keys of any row of any step."""

    kernel: Kernel
    longest: int
    inputs: FlatStep


def has_flash_attention(device: torch.device, shape: Shape) -> bool:
    """Whether torch's FlashAttention runs there."""
    half = shape.dtype in (torch.float16, torch.bfloat16)
    fits = half and shape.width <= 256 and shape.width % 8 == 0
    return fits and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


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
    **more: Any,  # other keywords that models pass
) -> tuple[Tensor, None]:
    """Compute attention: queries [1, heads, tokens, width] to outputs [1, tokens, heads, width].

    Writes keys and values to the cache. Raises ValueError for features that it does not support (softcap, sinks).
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("its attention has features that are not supported")
    layer: Any = module.layer_idx  # an int, which nn.Module does not declare
    inputs = step.inputs
    keys, values = inputs.layers[2 * layer : 2 * layer + 2]
    keys.index_copy_(0, inputs.slots, key[0].transpose(0, 1))
    values.index_copy_(0, inputs.slots, value[0].transpose(0, 1))
    compute = _by_row if step.kernel is Kernel.BY_ROW else _flash
    return compute(step, query[0].transpose(0, 1), keys, values, sliding_window, scaling).unsqueeze(0), None


def _flash(step: Step, query: Tensor, keys: Tensor, values: Tensor, window: int | None, scale: float | None) -> Tensor:
    inputs, decode = step.inputs, step.inputs.size.decode
    output: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        keys,
        values,
        inputs.ends,
        inputs.starts,
        1 if decode else inputs.size.tokens,
        step.longest,
        0.0,
        not decode,
        False,
        scale=scale,
        window_size_left=-1 if window is None else window - 1,
        # With one token a row nothing is right of it; the kernel splits the keys only if the window is open there.
        window_size_right=-1 if decode and step.kernel is Kernel.SPLIT else 0,
        seqused_k=inputs.used,
    )[0]
    return output


def _by_row(step: Step, query: Tensor, keys: Tensor, values: Tensor, window: int | None, scale: float | None) -> Tensor:
    output, grouped = torch.zeros_like(query), query.size(1) != keys.size(1)
    for span in step.inputs.spans:
        used = slice(span.start, span.start + span.used)
        answered = scaled_dot_product_attention(
            query[None, span.first : span.end].transpose(1, 2),
            keys[None, used].transpose(1, 2),
            values[None, used].transpose(1, 2),
            _mask(step.inputs, span, window),
            scale=scale,
            enable_gqa=grouped,
        )
        output[span.first : span.end] = answered[0].transpose(0, 1)
    return output


def _mask(inputs: FlatStep, span: Span, window: int | None) -> Tensor | None:
    """Return the mask [tokens, keys] of a row, or None if all keys are visible."""
    tokens = span.end - span.first
    if tokens == 1 and (window is None or span.used <= window):
        return None
    if (span, window) not in inputs.masks:
        device = inputs.slots.device
        last = torch.arange(span.used - tokens, span.used, device=device).unsqueeze(-1)
        key = torch.arange(span.used, device=device)
        seen = key <= last
        inputs.masks[span, window] = seen if window is None else seen & (key > last - window)
    return inputs.masks[span, window]


AttentionInterface.register(NAME, attend)
