"""Runs a model over tokens of several sequences in one pass, where each token attends to its own sequence only.

The input is a list of chunks: tokens that continue a sequence of the KV cache, which receives the new keys and values.
Only the attention is our code, which transformers calls under NAME. `enable_attention` enables it, and checks that the
model produces the same logits with it.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from bot.engine.batching.batch import CannotBatch, as_exception
from bot.engine.batching.fused_norms import five_operators, fuse_norms, restore_norms
from bot.engine.batching.row_batch import SequenceChunk, agrees
from bot.engine.batching.row_cache import Shape, shape_of
from bot.engine.cpu.attention_groups import Chunk, attention_calls
from bot.engine.cpu.kv_cache import KVCache
from bot.models.device_errors import classify

NAME = "inhouse-rows"
TRIAL = (11, 1, 4)
"""Tokens in the steps of the comparison: a prompt, one more, a few more."""
CALL_BYTES = 1 << 18
"""Bytes of keys and values that are read in the time that one more attention call costs (docs/measurements.md)."""


class ForwardPass:
    """One forward pass; models pass it to the attention as the keyword `step`.

    Holds what all layers share, since in a step of few tokens Python's overhead costs as much as the arithmetic.
    """

    def __init__(self, chunks: Sequence[Chunk], shape: Shape) -> None:
        self.calls = attention_calls(chunks, CALL_BYTES // shape.token_bytes)
        self.counts = [call.tokens for call in self.calls]


def forward(model: PreTrainedModel, chunks: Sequence[Chunk]) -> Tensor:
    """Run the model over the chunks and return the wanted logits, float32 [all wanted, vocabulary].

    The sequences must have room. They then end with the chunks' tokens; if the model raises, their ids are unchanged.
    """
    ends = accumulate(len(chunk.ids) for chunk in chunks)
    wanted = [place for chunk, end in zip(chunks, ends, strict=True) for place in range(end - chunk.wanted, end)]
    befores = [len(chunk.row.ids) for chunk in chunks]
    begun = zip(chunks, befores, strict=True)
    positions = [place for chunk, before in begun for place in range(before, before + len(chunk.ids))]
    whole: Any = model  # forward takes keywords that the class does not declare
    output = whole(
        input_ids=torch.tensor([[token for chunk in chunks for token in chunk.ids]]),
        position_ids=torch.tensor([positions]),
        use_cache=False,
        logits_to_keep=torch.tensor(wanted or [0]),
        step=ForwardPass(chunks, shape_of(model)),
    )
    logits: Tensor = output.logits[0].float()
    for chunk in chunks:
        chunk.row.ids += chunk.ids
    # Some models ignore logits_to_keep.
    return logits[: len(wanted)] if len(logits) == max(1, len(wanted)) else logits[wanted]


def enable_attention(model: PreTrainedModel, vocabulary: int) -> None:
    """Enable our attention and norms for the model, if a short text has the same logits with them as without.

    Raises CannotBatch, or Unrecoverable or MemoryError for failures that the model did not cause; it then uses its own
    code again.
    """
    if model.config._attn_implementation == NAME:
        return
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        raise CannotBatch("tokens see their own chunk only, which shows in no short text")
    ids = [7 * place % vocabulary for place in range(sum(TRIAL))]
    whole: Any = model
    try:
        with torch.inference_mode():
            expected = whole(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
            model.set_attn_implementation(NAME)
            if not getattr(model, "is_quantized", False):  # rounding to 8 bits turns a last bit into another token
                fuse_norms(model, five_operators)
            row = KVCache(shape_of(model), 1).allocate([*ids, 0], len(ids))
            for count in TRIAL:
                done = len(row.ids)
                found = forward(model, [SequenceChunk(row, ids[done : done + count])])
                wanted = expected[len(row.ids) - 1]
                if not agrees(found, wanted):
                    raise ValueError("its logits differ with our attention")
    except Exception as error:  # the model's code may raise anything
        model.set_attn_implementation("sdpa")
        restore_norms(model)
        raise as_exception(classify(error)) from None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    step: ForwardPass,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **more: Any,  # other keywords that models pass
) -> tuple[Tensor, None]:
    """Compute attention: queries [1, heads, tokens, width] to outputs [1, tokens, heads, width].

    Writes keys and values to the KV cache. Raises ValueError for features that it does not support (softcap, sinks).
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("its attention has features that are not supported")
    layer: Any = module.layer_idx  # an int, which nn.Module does not declare
    inputs = (step.calls, *(torch.split(line, step.counts, 2) for line in (query, key, value)))
    outputs = [call.attend(layer, q, k, v, sliding_window, scaling) for call, q, k, v in zip(*inputs, strict=True)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), None


AttentionInterface.register(NAME, attend)  # NAME has no mask function, so that transformers makes no masks
