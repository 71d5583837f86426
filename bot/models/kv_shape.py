"""Compute from a config.json how much a model's layers keep of a conversation: the sizes of its KV cache.

Layers with full attention keep all tokens, those with a sliding window the last ones only, and recurrent layers
(Mamba, gated delta networks) a state of fixed size. Numbers of values, not bytes.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

MOST_LAYERS = 10_000
"""Most layers that are counted, since a config.json may state any number; the largest known models have 126."""

RENAMED = {
    "attention": "full_attention",
    "mamba": "linear_attention",
    "chunked_attention": "sliding_attention",
    "hybrid": "full_attention",  # attention and a recurrent state in one layer
    "hybrid_sliding": "sliding_attention",
}
LETTERS = {
    "M": "linear_attention",
    "*": "full_attention",
    "E": "moe",
    "-": "mlp",
    "L": "sliding_attention",
    "G": "full_attention",
}
"""Layer types in a `hybrid_override_pattern` (Nemotron-H), or a `sliding_window_pattern` of letters (EXAONE)."""

ALTERNATING = {"gemma2": 2, "gpt_oss": 2, "cohere2": 4, "olmo3": 4}
GEMMA_PATTERN = 6
"""Every how many layers one has full attention, in architectures whose config.json may not say so."""


@dataclass(frozen=True, slots=True)
class KvShape:
    """Values that a conversation keeps: a token's in layers that keep all tokens, a token's in those that keep the
    last `window` ones, and those of all recurrent states together.
    """

    values: int
    sliding_values: int = 0
    window: int = 0
    state_values: int = 0


def kv_shape(config: Mapping[str, object]) -> KvShape:
    """The shape of a model's KV cache. config: of the language model. Unknown sizes give 0."""
    layers = _layers(config)
    kinds = layer_types(config)
    kept = kinds[: len(kinds) - _number(config, "num_kv_shared_layers")] if kinds else []
    count = Counter(kept) if kept else Counter({"full_attention": layers})
    window = _number(config, "sliding_window") or _number(config, "attention_chunk_size")
    full, sliding = _widths(config)
    if not window:
        count["full_attention"] += count.pop("sliding_attention", 0)
    return KvShape(
        values=count["full_attention"] * full,
        sliding_values=count["sliding_attention"] * sliding,
        window=window if count["sliding_attention"] else 0,
        state_values=count["linear_attention"] * _state(config),
    )


def layer_types(config: Mapping[str, object]) -> list[str]:
    """The types of the layers, in order, by transformers' names; [] if all have full attention."""
    layers = _layers(config)
    for key in ("layer_types", "layers_block_type"):
        named = config.get(key)
        if isinstance(named, list) and len(named) <= MOST_LAYERS and named:
            return [RENAMED.get(str(each), str(each)) for each in named]
    letters = config.get("hybrid_override_pattern")
    if isinstance(letters, str):
        return [LETTERS.get(letter, letter) for letter in letters[:MOST_LAYERS]]
    if every := _number(config, "full_attention_interval"):
        return _every(every, layers, "linear_attention")
    for key, other in (("full_attn_idxs", "conv"), ("attn_layer_indices", "linear_attention")):
        indices = config.get(key)
        if isinstance(indices, list):
            full = {number for number in indices if isinstance(number, int)}
            return ["full_attention" if number in full else other for number in range(layers)]
    if not _number(config, "sliding_window") or config.get("use_sliding_window") is False:
        return []
    return _sliding(config, layers)


def _sliding(config: Mapping[str, object], layers: int) -> list[str]:
    """The types of the layers of a model with a sliding window and without a list of types."""
    kind = str(config.get("model_type", ""))
    pattern = config.get("sliding_window_pattern", config.get("_sliding_window_pattern"))
    if isinstance(pattern, str) and pattern:
        return [LETTERS.get(pattern[number % len(pattern)], "full_attention") for number in range(layers)]
    default = GEMMA_PATTERN if kind.startswith(("gemma3", "gemma4")) else ALTERNATING.get(kind, 0)
    every = pattern if isinstance(pattern, int) and 0 < pattern <= MOST_LAYERS else default
    if every:
        return _every(every, layers, "sliding_attention")
    first = _number(config, "max_window_layers") if config.get("use_sliding_window") is True else 0
    return ["full_attention" if number < first else "sliding_attention" for number in range(layers)]


def _every(every: int, layers: int, other: str) -> list[str]:
    return ["full_attention" if (number + 1) % every == 0 else other for number in range(layers)]


def _widths(config: Mapping[str, object]) -> tuple[int, int]:
    """Values of a token's keys and values in a layer with full attention, and in one with a sliding window."""
    if latent := _number(config, "kv_lora_rank"):
        both = latent + _number(config, "qk_rope_head_dim")
        return both, both
    heads = _number(config, "num_attention_heads")
    kv_heads = _number(config, "num_key_value_heads") or heads
    width = _number(config, "head_dim") or _number(config, "hidden_size") // max(heads, 1)
    sliding = 2 * kv_heads * width
    wide = _number(config, "global_head_dim") or width
    fewer = _number(config, "num_global_key_value_heads") if config.get("attention_k_eq_v") is not False else 0
    return 2 * (fewer or kv_heads) * wide, sliding


def _state(config: Mapping[str, object]) -> int:
    """Values of the state of one recurrent layer."""
    gated = ("linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
    mamba = ("mamba_num_heads", "mamba_head_dim", "ssm_state_size")
    granite = ("mamba_n_heads", "mamba_d_head", "mamba_d_state")
    return max(prod(_number(config, key) for key in keys) for keys in (gated, mamba, granite))


def _layers(config: Mapping[str, object]) -> int:
    return min(_number(config, "num_hidden_layers"), MOST_LAYERS)


def _number(config: Mapping[str, object], key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9 else 0
