"""Runs a model over tokens of several conversations in one pass, where each token attends to its own row only.

The input is a list of parts, tokens that continue a row of the KV cache; the rows receive the new keys and values. Only
the attention is our code, which transformers calls under NAME. `switch` enables it, and checks that the model produces
the same logits with it.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from bot.engine.batching.batch import CannotBatch, meant
from bot.engine.cpu.attention_groups import Part, spans_of
from bot.engine.cpu.kv_cache import Rows, Shape
from bot.models.device_errors import judge

NAME = "inhouse-rows"
TRIAL = (11, 1, 4)
"""Tokens in the steps of the comparison: a prompt, one more, a few more."""
CALL_BYTES = 1 << 18
"""Bytes of keys and values that are read in the time that one more attention call costs (docs/measurements.md)."""
TOLERANCE = 0.05
"""Most difference of logits, as a share of the largest; in bfloat16 the order of additions makes 0.01."""


class Step:
    """One forward pass; models pass it to the attention as the keyword `step`.

    Holds what all layers share, since in a step of few tokens Python's overhead costs as much as the arithmetic.
    """

    def __init__(self, parts: Sequence[Part], shape: Shape) -> None:
        self.spans = spans_of(parts, CALL_BYTES // shape.token_bytes)
        self.counts = [span.tokens for span in self.spans]


def forward(model: PreTrainedModel, parts: Sequence[Part]) -> Tensor:
    """Run the model over the parts and return the wanted logits, float32 [all wanted, vocabulary].

    The rows must have room. They then end with the parts' tokens; if the model raises, their ids are unchanged.
    """
    ends = accumulate(len(part.ids) for part in parts)
    wanted = [place for part, end in zip(parts, ends, strict=True) for place in range(end - part.wanted, end)]
    befores = [len(part.row.ids) for part in parts]
    begun = zip(parts, befores, strict=True)
    positions = [place for part, before in begun for place in range(before, before + len(part.ids))]
    whole: Any = model  # forward takes keywords that the class does not declare
    output = whole(
        input_ids=torch.tensor([[token for part in parts for token in part.ids]]),
        position_ids=torch.tensor([positions]),
        use_cache=False,
        logits_to_keep=torch.tensor(wanted or [0]),
        step=Step(parts, shape_of(model)),
    )
    logits: Tensor = output.logits[0].float()
    for part in parts:
        part.row.ids += part.ids
    # Some models ignore logits_to_keep.
    return logits[: len(wanted)] if len(logits) == max(1, len(wanted)) else logits[wanted]


def shape_of(model: PreTrainedModel) -> Shape:
    """Return the shape of one token's keys and values."""
    config = model.config.get_text_config()
    heads, width = int(find_num_key_value_heads(config)), int(find_head_dim(config))
    return Shape(int(config.num_hidden_layers), heads, width, model.dtype)


def switch(model: PreTrainedModel, vocabulary: int) -> None:
    """Enable our attention for the model, if a short text has the same logits with it as without.

    Raises CannotBatch, or Unrecoverable or MemoryError for failures that the model did not cause; it then uses sdpa
    again.
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
            row = Rows(shape_of(model), 1).take([*ids, 0], len(ids))
            for count in TRIAL:
                done = len(row.ids)
                found = forward(model, [Part(row, ids[done : done + count])])
                wanted = expected[len(row.ids) - 1]
                if bool((found - wanted).abs().max() > TOLERANCE * wanted.abs().max()):
                    raise ValueError("with another attention it says something else")
    except Exception as error:  # the model's code may raise anything
        model.set_attn_implementation("sdpa")
        raise meant(judge(error)) from None


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

    Writes keys and values to their rows. Raises ValueError for features that it does not support (softcap, sinks).
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("its attention has parts that are not known here")
    layer: Any = module.layer_idx  # an int, which nn.Module does not declare
    parts = (step.spans, *(torch.split(line, step.counts, 2) for line in (query, key, value)))
    outputs = [span.attend(layer, q, k, v, sliding_window, scaling) for span, q, k, v in zip(*parts, strict=True)]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)  # spans make their own masks
