"""Makes tiny random models of the architectures that people run, in float32 and without a tokenizer."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen3Config,
)

VOCABULARY = 96
SLIDING = 24
"""Sliding window of the architectures that have one."""

ARCHITECTURES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {  # Any: a config's fields
    "phi3": (Phi3Config, {"num_key_value_heads": 1, "sliding_window": None}),
    "phi": (PhiConfig, {"partial_rotary_factor": 0.5}),
    "llama": (LlamaConfig, {"num_key_value_heads": 2}),
    "mistral": (MistralConfig, {"num_key_value_heads": 2, "sliding_window": SLIDING}),
    "qwen3": (Qwen3Config, {"num_key_value_heads": 2, "head_dim": 24}),
    "gemma3": (
        Gemma3TextConfig,
        {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": SLIDING,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "mixtral": (MixtralConfig, {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}),
}


def make(name: str, **more: object) -> Any:
    """Makes a model of one of ARCHITECTURES, always with the same weights. more: other fields of its config."""
    kind, fields = ARCHITECTURES[name]
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "initializer_range": 0.3,  # wide enough that greedy choices are not near-ties
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return AutoModelForCausalLM.from_config(kind(**(sizes | fields | more)), dtype=torch.float32).eval()


@torch.inference_mode()
def greedy(model: Any, ids: list[int], tokens: int, repetition_penalty: float = 1.0) -> list[int]:
    """What generate() answers to `ids`, in so many tokens."""
    text = torch.tensor([ids])
    made = model.generate(
        text,
        attention_mask=torch.ones_like(text),
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=None,
        repetition_penalty=repetition_penalty,
    )
    answer: list[int] = made[0, len(ids) :].tolist()
    return answer
