"""Tests the size of the KV cache by layer type against the caches that transformers fills."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from bot.models.fit import kv_mb
from bot.models.kv_shape import MOST_LAYERS, kv_shape, layer_types
from bot.models.model_directory import from_config
from bot.models.model_spec import ModelSpec

TOKENS, WINDOW = 40, 16
SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GATED = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 3},
    "mistral": {"num_hidden_layers": 3, "sliding_window": WINDOW},
    "mistral without": {"num_hidden_layers": 3, "sliding_window": None},
    "qwen2": {"num_hidden_layers": 4, "sliding_window": WINDOW, "use_sliding_window": False},
    "qwen2 sliding": {
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "use_sliding_window": True,
        "max_window_layers": 1,
    },
    "gemma2": {"num_hidden_layers": 4, "sliding_window": WINDOW},
    "gemma3_text": {"num_hidden_layers": 6, "sliding_window": WINDOW, "sliding_window_pattern": 3},
    "gemma3_text by default": {"num_hidden_layers": 6, "sliding_window": WINDOW},
    "gpt_oss": {
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "layer_types": [SLIDING, FULL, SLIDING, FULL],
    },
    "gemma4_text": {
        "num_hidden_layers": 6,
        "sliding_window": WINDOW,
        "layer_types": [SLIDING, FULL, SLIDING, FULL, SLIDING, FULL],
        "global_head_dim": 32,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0,
    },
    "gemma4_text shared": {
        "num_hidden_layers": 6,
        "sliding_window": WINDOW,
        "layer_types": [SLIDING, FULL, SLIDING, SLIDING, SLIDING, FULL],
        "global_head_dim": 32,
        "num_kv_shared_layers": 3,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 64,
    },
    "qwen3_5_text": {"num_hidden_layers": 4, "full_attention_interval": 4, **GATED},
    "qwen3_5_moe_text": {
        "num_hidden_layers": 4,
        "layer_types": [LINEAR, LINEAR, LINEAR, FULL],
        "shared_expert_intermediate_size": 32,
        **EXPERTS,
        **GATED,
    },
    "glm4_moe_lite": {
        "num_hidden_layers": 2,
        "kv_lora_rank": 24,
        "q_lora_rank": 24,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "first_k_dense_replace": 1,
    },
    "lfm2": {"num_hidden_layers": 4, "full_attn_idxs": [1, 3]},
    "mellum": {
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "layer_types": [SLIDING, SLIDING, SLIDING, FULL],
        **EXPERTS,
    },
}


def stored(config: dict[str, Any]) -> int:
    """Values that transformers keeps of keys and values after TOKENS tokens."""
    known: Any = AutoConfig.for_model(**config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(known).eval()
    cache = DynamicCache(config=known)
    with torch.inference_mode():
        model(torch.arange(TOKENS)[None] % 64, past_key_values=cache, use_cache=True)
        model(torch.zeros((1, 1), dtype=torch.long), past_key_values=cache, use_cache=True)
    layers: list[Any] = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    return sum(int(layer.keys.numel() + layer.values.numel()) for layer in layers)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_layer_keeps_what_transformers_keeps(name: str) -> None:
    config = {"model_type": name.split()[0], **SIZES, **CONFIGS[name]}
    shape = kv_shape(config)
    # transformers keeps one token less than the window, since the newest one is added to it
    kept = min(TOKENS + 1, shape.window - 1) if shape.window else 0
    assert (TOKENS + 1) * shape.values + kept * shape.sliding_values == stored(config)


def test_a_recurrent_state_counts_once_and_not_by_token() -> None:
    config = {"model_type": "qwen3_5_text", **SIZES, **CONFIGS["qwen3_5_text"]}
    shape = kv_shape(config)
    assert shape.values == 2 * 2 * 16, "one layer of four"
    assert shape.state_values == 3 * 4 * 16 * 16


@pytest.mark.parametrize("pattern", ["M-M*EM", ["mamba", "mlp", "mamba", "attention", "moe", "mamba"]])
def test_a_pattern_of_letters_is_the_list_of_types(pattern: object) -> None:
    key = "hybrid_override_pattern" if isinstance(pattern, str) else "layers_block_type"
    mamba = {"mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 16}
    shape = kv_shape({**SIZES, key: pattern, **mamba})
    assert (shape.values, shape.state_values) == (64, 3 * 4 * 8 * 16)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_hidden_layers": "many", "layer_types": 3, "num_attention_heads": True, "sliding_window": -1},
        {"num_hidden_layers": 4, "layer_types": [None, 1, {}, []], "head_dim": 16, "num_attention_heads": 4},
        {"num_hidden_layers": 4, "layer_types": ["full_attention"] * 20_000, "num_kv_shared_layers": 9**9},
        {"num_hidden_layers": 4, "full_attn_idxs": ["0", None], "sliding_window_pattern": "", "sliding_window": 3},
    ],
)
def test_a_config_of_the_wrong_types_gives_a_shape_all_the_same(config: dict[str, Any]) -> None:
    assert kv_shape(config).values >= 0


def test_a_window_bounds_what_a_conversation_takes(tmp_path: Path) -> None:
    config = {"model_type": "gemma3_text", **SIZES, "num_hidden_layers": 6, "sliding_window": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(bytes(5000))
    spec = from_config(ModelSpec(name="m"), tmp_path)
    assert (spec.kv_values, spec.sliding_values, spec.sliding_window) == (64, 5 * 64, 1024)
    assert spec.kv_bytes(100, 2) == 100 * 6 * 64 * 2
    assert spec.kv_bytes(32_768, 2) == (32_768 + 5 * 1024) * 64 * 2
    assert kv_mb(spec, "bfloat16", 32_768) == 4, "all layers alike would take 24"


@pytest.mark.parametrize(
    "more",
    [{"full_attention_interval": 4}, {"attn_layer_indices": [1, [], "2"]}, {"sliding_window": 16}],
    ids=["interval", "indices", "window"],
)
def test_a_config_that_states_too_many_layers_costs_no_memory(more: dict[str, Any]) -> None:
    assert len(layer_types({"num_hidden_layers": 10**6, **more})) == MOST_LAYERS
