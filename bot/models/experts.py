"""Compute from a config.json which share of its weights a mixture-of-experts model reads for a token."""

from collections.abc import Mapping

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "top_k_experts", "experts_per_token", "moe_topk")
MATRICES = 3
"""Matrices of an expert: gate, up and down."""


def idle_parameters(config: Mapping[str, object]) -> int:
    """Parameters of the experts that a token does not use; 0 for a dense model. config: of the language model."""
    experts, chosen = _first(config, COUNTS), _first(config, CHOSEN)
    if experts <= chosen or not chosen:
        return 0
    width = _first(config, ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size"))
    size = MATRICES * _first(config, ("hidden_size",)) * width
    return (experts - chosen) * size * _sparse_layers(config)


def _sparse_layers(config: Mapping[str, object]) -> int:
    layers = _first(config, ("num_hidden_layers",))
    kinds = config.get("mlp_layer_types")
    if isinstance(kinds, list):
        return kinds.count("sparse")
    for key in ("layers_block_type", "hybrid_override_pattern"):  # Nemotron-H: experts are layers of their own
        pattern = config.get(key)
        if isinstance(pattern, str | list) and ("moe" in pattern or "E" in pattern):
            return sum(each in ("moe", "E") for each in pattern)
    return max(0, layers - _first(config, ("first_k_dense_replace",)))


def _first(config: Mapping[str, object], keys: tuple[str, ...]) -> int:
    """The first of these numbers that the config has, or 0."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9:
            return value
    return 0
