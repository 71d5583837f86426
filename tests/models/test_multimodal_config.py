"""Tests the facts about models that also take images, whose config keeps those of the language model apart."""

import json
from pathlib import Path

import pytest

from bot.models.fit import kv_mb
from bot.models.model_directory import from_config
from bot.models.model_spec import ModelSpec

TEXT = {
    "vocab_size": 1000,
    "hidden_size": 512,
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "dtype": "bfloat16",
}
VISION = {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16}


@pytest.mark.parametrize("name", ["text_config", "llm_config", "language_config"])
def test_window_layers_and_heads_are_those_of_the_language_model(tmp_path: Path, name: str) -> None:
    config = {"model_type": "gemma3", name: TEXT, "vision_config": VISION, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(bytes(5000))
    spec = from_config(ModelSpec(name="m"), tmp_path)
    assert (spec.context_window, spec.layers, spec.kv_heads, spec.head_dim) == (131_072, 34, 4, 256)
    assert (spec.embeddings, spec.tied, spec.parameters) == (512_000, True, 2500)
    assert kv_mb(spec, "bfloat16", 4096) == 2 * 34 * 4 * 256 * 2 * 4096 >> 20


def test_a_config_of_a_plain_model_is_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TEXT | {"text_config": None}))
    (tmp_path / "model.safetensors").write_bytes(bytes(5000))
    assert from_config(ModelSpec(name="m"), tmp_path).layers == 34
