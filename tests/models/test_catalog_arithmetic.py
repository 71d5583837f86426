"""Tests the numbers of each model of the catalog against the model that transformers builds with its config."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bot.models.catalog import BUILT_IN
from bot.models.experts import idle_parameters
from bot.models.kv_shape import kv_shape
from bot.models.model_spec import ModelSpec, read_specs
from tests.support.builders.catalog_configs import CONFIGS

SPECS = {spec.name: spec for spec in read_specs(BUILT_IN)}
PER_LAYER = "embed_tokens_per_layer"
"""Gemma's embeddings of which a token reads one row in each layer."""


def test_every_model_has_its_config_here() -> None:
    assert SPECS.keys() == CONFIGS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_and_window_are_those_of_the_model(name: str) -> None:
    spec, config = SPECS[name], CONFIGS[name]
    known = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(known)
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    assert spec.parameters == sum(sizes.values())
    matrix = model.get_input_embeddings().weight.numel()
    assert spec.tied is known.tie_word_embeddings
    assert spec.embeddings == (matrix if spec.tied else 2 * matrix)
    rows = sum(size for weight, size in sizes.items() if PER_LAYER in weight)
    unused = idle_parameters(config) + rows
    assert spec.active == (spec.parameters - unused if unused else 0)
    assert spec.context_window <= known.max_position_embeddings
    assert spec.context_window == known.max_position_embeddings or name == "qwen3-1.7b", "32,768 without long answers"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_kv_cache_is_counted_by_layer_type(name: str) -> None:
    spec, config = SPECS[name], CONFIGS[name]
    shape = kv_shape(config)
    known = AutoConfig.for_model(**config)
    assert spec.layers == known.num_hidden_layers
    heads = config["num_attention_heads"]
    assert spec.kv_heads == config.get("num_key_value_heads", heads)
    assert spec.head_dim == config.get("head_dim", config["hidden_size"] // heads)
    assert spec.kv_values_per_token == shape.values
    assert (spec.sliding_values, spec.sliding_window) == (shape.sliding_values, shape.window)
    assert spec.state_values == shape.state_values


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_the_size_of_a_download_is_that_of_its_weights(spec: ModelSpec) -> None:
    """What is more than two bytes a weight: tokenizer, the parts for pictures, heads for drafts, a stored tied head."""
    if spec.quantization == "mxfp4":
        assert 0.5 * spec.parameters < spec.download < 0.7 * spec.parameters
        return
    more = 2_700_000_000 if spec.vision else 25_000_000 + 2 * spec.embeddings * spec.tied
    assert 0 < spec.download - 2 * spec.parameters < more
    for engine, variant in spec.variants.items():
        bits = 8 * variant.download / spec.parameters
        assert (4 < bits < 5.8) if engine == "llama.cpp" else (8 < bits < 10.5), engine
