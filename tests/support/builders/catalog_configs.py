"""The sizes in the config.json of each model of the catalog, with which transformers builds the model's language part.

From the repositories, their model cards and transformers' documentation; fields that do not change a size are left out.
"""

from typing import Any

FULL, SLIDING = "full_attention", "sliding_attention"


def five_to_one(layers: int) -> list[str]:
    """Gemma's layers: five with a sliding window, then one without."""
    return ([SLIDING] * 5 + [FULL]) * (layers // 6)


def _qwen3(hidden: int, inner: int, layers: int, heads: int, window: int) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
        "max_position_embeddings": window,
    }


def _qwen35(hidden: int, layers: int, heads: int, kv_heads: int, value_heads: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 256,
        "linear_num_value_heads": value_heads,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "full_attention_interval": 4,
        "vocab_size": 248_320,
        "tie_word_embeddings": False,
        "max_position_embeddings": 262_144,
    }


def _gemma4(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, global_heads: int) -> dict[str, Any]:
    return {
        "model_type": "gemma4_text",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_global_key_value_heads": global_heads,
        "head_dim": 256,
        "global_head_dim": 512,
        "attention_k_eq_v": True,
        "sliding_window": 1024,
        "layer_types": five_to_one(layers),
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
        "vocab_size": 262_144,
        "tie_word_embeddings": True,
        "max_position_embeddings": 262_144,
    }


def _ministral(hidden: int, inner: int, layers: int) -> dict[str, Any]:
    return {
        "model_type": "ministral3",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 131_072,
        "max_position_embeddings": 262_144,
    }


def _gpt_oss(layers: int, experts: int) -> dict[str, Any]:
    return {
        "model_type": "gpt_oss",
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": layers,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": experts,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "layer_types": [SLIDING, FULL] * (layers // 2),
        "vocab_size": 201_088,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131_072,
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "smollm2": {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49_152,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    },
    "phi-2": {
        "model_type": "phi",
        "hidden_size": 2560,
        "intermediate_size": 10_240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 51_200,
        "max_position_embeddings": 2048,
    },
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, 40_960),
    "qwen3-4b-instruct-2507": _qwen3(2560, 9728, 36, 32, 262_144),
    "mistral-7b-instruct-v0.3": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32_768,
        "sliding_window": None,
        "max_position_embeddings": 32_768,
    },
    "gemma-4-e4b": _gemma4(2560, 10_240, 42, 8, 2, 2)
    | {
        "attention_k_eq_v": False,
        "num_global_key_value_heads": None,
        "sliding_window": 512,
        "hidden_size_per_layer_input": 256,
        "vocab_size_per_layer_input": 262_144,
        "num_kv_shared_layers": 18,
        "max_position_embeddings": 131_072,
    },
    "ministral-3-8b": _ministral(4096, 14_336, 34),
    "qwen3.5-9b": _qwen35(4096, 32, 16, 4, 32) | {"model_type": "qwen3_5_text", "intermediate_size": 12_288},
    "gemma-4-12b": _gemma4(3840, 15_360, 48, 16, 8, 1) | {"model_type": "gemma4_unified_text"},
    "mellum2-12b": {
        "model_type": "mellum",
        "hidden_size": 2304,
        "intermediate_size": 7168,
        "moe_intermediate_size": 896,
        "num_hidden_layers": 28,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "sliding_window": 1024,
        "layer_types": [SLIDING, SLIDING, SLIDING, FULL] * 7,
        "vocab_size": 98_304,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131_072,
    },
    "ministral-3-14b": _ministral(5120, 16_384, 40),
    "phi-4": {
        "model_type": "phi3",
        "hidden_size": 5120,
        "intermediate_size": 17_920,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "vocab_size": 100_352,
        "tie_word_embeddings": False,
        "max_position_embeddings": 16_384,
    },
    "gpt-oss-20b": _gpt_oss(24, 32),
    "gemma-4-26b-a4b": _gemma4(2816, 2112, 30, 16, 8, 2)
    | {"enable_moe_block": True, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704},
    "qwen3.8-27b": _qwen35(5120, 64, 24, 4, 48) | {"model_type": "qwen3_5_text", "intermediate_size": 17_408},
    "gemma-4-31b": _gemma4(5376, 21_504, 60, 32, 16, 4),
    "qwen3.6-35b-a3b": _qwen35(2048, 40, 16, 2, 32)
    | {
        "model_type": "qwen3_5_moe_text",
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 256,
        "num_experts_per_tok": 8,
    },
    "gpt-oss-120b": _gpt_oss(36, 128),
}
