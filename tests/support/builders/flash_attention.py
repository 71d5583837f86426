"""Computes torch's FlashAttention operator on the CPU, so that code which calls it runs without a GPU.

`on_cpu()` registers this for the operator as long as the context is open. It takes the operator's arguments as the
GPU's kernel does: `cum_seq_k` are offsets in any order, `seqused_k` lengths, the causal mask is aligned to the last
key, and queries that see no key give 0. It asserts what the kernel relies on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
    seqused_k: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator: query [tokens, heads, width], key and value [slots, key heads, width], to the output and four
    tensors that nothing reads."""
    rows = len(seqused_k)
    assert all(each.dtype == torch.int32 for each in (cum_seq_q, cum_seq_k, seqused_k))
    assert len(cum_seq_q) == len(cum_seq_k) == rows + 1
    assert dropout_p == 0.0
    assert not return_debug_mask
    left = window_size_left if window_size_left is not None and window_size_left >= 0 else max_k
    right = window_size_right if window_size_right is not None and window_size_right >= 0 else max_k
    if is_causal:
        right = 0
    ends, starts, used = cum_seq_q.tolist(), cum_seq_k.tolist(), seqused_k.tolist()
    assert ends[-1] == len(query), "padding must belong to a row, or its output would be arbitrary"
    output = torch.empty_like(query)
    groups = query.size(1) // key.size(1)
    for row in range(rows):
        asked = query[ends[row] : ends[row + 1]].float()
        assert len(asked) <= max_q
        assert 0 < used[row] <= max_k
        assert starts[row] + used[row] <= len(key)
        if not len(asked):
            continue
        slots = slice(starts[row], starts[row] + used[row])
        keys = key[slots].float().repeat_interleave(groups, 1)
        values = value[slots].float().repeat_interleave(groups, 1)
        scores = torch.einsum("qhd,khd->hqk", asked, keys) * (scale or query.size(-1) ** -0.5)
        place = torch.arange(len(asked), device=query.device).unsqueeze(-1) + used[row] - len(asked)
        distance = torch.arange(used[row], device=query.device) - place
        scores = scores.masked_fill((distance < -left) | (distance > right), -torch.inf)
        weights = scores.softmax(-1).nan_to_num(0.0)
        output[ends[row] : ends[row + 1]] = torch.einsum("hqk,khd->qhd", weights, values).to(query.dtype)
    unread = torch.empty(0)
    return output, unread, unread, unread, unread


@contextmanager
def on_cpu(operator: Callable[..., Any] = flash_attention) -> Iterator[None]:
    """Lets torch's FlashAttention operator run on the CPU, and one thread compute, as the models are tiny."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", operator, "CPU")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        library.m = None  # drops the registration
