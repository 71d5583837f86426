"""Tests the share of the weights that a token uses against the experts of transformers' models."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bot.models.experts import idle_parameters

SIZES = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 48},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 64},
    "glm4_moe_lite": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "qk_rope_head_dim": 16,
        "n_shared_experts": 1,
    },
    "gemma4_text": {
        "num_experts": 8,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
        "enable_moe_block": True,
        "hidden_size_per_layer_input": 0,
    },
    "llama": {},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_idle_experts_are_those_of_the_model(kind: str) -> None:
    config = {"model_type": kind, "vocab_size": 64, "intermediate_size": 128, **SIZES, **CONFIGS[kind]}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    matrices = [
        weight.numel()
        for name, weight in model.named_parameters()
        if ".experts." in name and "bias" not in name and weight.dim() == 3
    ]
    assert idle_parameters(config) == sum(matrices) * 6 // 8
    assert bool(matrices) == (kind != "llama")


@pytest.mark.parametrize(
    "config",
    [{}, {"num_experts": 4}, {"num_experts": True, "num_experts_per_tok": "2"}, {"num_experts": 2, "top_k_experts": 4}],
)
def test_without_facts_all_weights_are_used(config: dict[str, Any]) -> None:
    assert idle_parameters(config) == 0


def test_layers_of_experts_alone_are_counted_by_the_pattern() -> None:
    sizes = {"hidden_size": 10, "moe_intermediate_size": 5, "n_routed_experts": 3, "num_experts_per_tok": 1}
    assert idle_parameters(sizes | {"hybrid_override_pattern": "MEM*E", "num_hidden_layers": 5}) == 2 * 2 * 150
