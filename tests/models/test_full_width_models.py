"""Tests our catalog and estimates for Phi-4, Phi-2 and Mistral against their real configurations at full depth.

Nothing is loaded: the models are on torch's meta device, where tensors have shapes but no memory.
"""

import math
from functools import cache

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer

from bench.shapes import config_of
from bot.engine.text.prompts import PromptBuilder
from bot.models.fit import BYTES, GPU_RUNTIME_MB, fits, kv_mb, weights_mb
from bot.models.hardware import MB, Hardware
from bot.models.loading import layer_map, quantization_of
from tests.support.builders.engine_requests import prompt
from tests.support.builders.full_width_models import REALS, Real, tokenizer_of

REAL = pytest.mark.parametrize("real", REALS.values(), ids=list(REALS))
CARD = Hardware("card", "13.0", 24_000, 23_500, True, "cpu", 8, 64_000, 60_000)


@cache
def skeleton(name: str) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config_of(name))
        return model


@REAL
def test_the_catalog_knows_the_model(real: Real) -> None:
    config, model, spec = config_of(real.name), skeleton(real.name), real.spec
    assert spec.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert spec.embeddings == 2 * config.vocab_size * config.hidden_size
    assert spec.context_window == config.max_position_embeddings
    assert (spec.layers, spec.kv_heads) == (config.num_hidden_layers, config.num_key_value_heads)
    assert spec.head_dim == config.hidden_size // config.num_attention_heads
    assert spec.kv_values_per_token == 2 * spec.layers * spec.kv_heads * spec.head_dim


@REAL
def test_rotation_is_the_models_own(real: Real) -> None:
    """As transformers reads it from config.json: phi-2 rotates 32 of 80 dimensions of a head, the others all 128."""
    model = skeleton(real.name)
    theta, turned = {"phi-4": (250_000.0, 128), "phi-2": (10_000.0, 32)}.get(real.name, (1_000_000.0, 128))
    again = AutoConfig.for_model(**model.config.to_dict())
    with torch.device("cpu"):
        rotary = type(model.get_submodule("model.rotary_emb"))(again)
    inverse = rotary.inv_freq
    assert isinstance(inverse, torch.Tensor)
    assert len(inverse) == turned // 2
    assert float(inverse[1]) == pytest.approx(theta ** (-2 / turned))


@REAL
def test_a_split_puts_every_layer_where_it_was_asked_to(real: Real) -> None:
    config, model = config_of(real.name), skeleton(real.name)
    on_gpu = config.num_hidden_layers // 4
    placed = layer_map(config, on_gpu)
    in_ram = [name for name, place in placed.items() if place == "cpu"]
    assert in_ram == [f"model.layers.{number}" for number in range(on_gpu, config.num_hidden_layers)]
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        assert len([part for part in placed if f"{name}.".startswith(f"{part}.")]) == 1, name
    ram = sum(parameter.numel() * 2 for name, parameter in model.named_parameters() if on_ram(name, in_ram))
    gpu = real.spec.parameters * 2 - ram
    told = fits(real.spec, CARD, "bfloat16", gpu_layers=on_gpu)
    layer = ram / len(in_ram)
    cache_mb = kv_mb(real.spec, "bfloat16", min(real.spec.context_window, 4096))
    if told.available_mb == CARD.vram_free_mb:
        assert told.needed_mb == pytest.approx((gpu + layer) / MB + cache_mb + GPU_RUNTIME_MB, rel=0.1)
    else:
        assert told.needed_mb == pytest.approx(ram / MB + 700, rel=0.1)


def on_ram(name: str, in_ram: list[str]) -> bool:
    return any(name.startswith(f"{layer}.") for layer in in_ram)


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
@REAL
def test_estimates_of_full_depth(real: Real, kind: str) -> None:
    """bitsandbytes quantizes the layers' matrices; 4-bit blocks of 64 numbers have a float32 each."""
    size = {"8bit": lambda rows, columns: rows * (columns + 4), "4bit": lambda rows, columns: rows * columns * 0.5625}
    for dtype in ("float32", "bfloat16"):
        whole = quantized = 0.0
        for name, parameter in skeleton(real.name).named_parameters():
            matrix = ".layers." in name and parameter.dim() == 2
            whole += parameter.numel() * BYTES[dtype]
            quantized += size[kind](*parameter.shape) if matrix else parameter.numel() * BYTES[dtype]
        assert weights_mb(real.spec, dtype) == pytest.approx(whole / MB, rel=0.001)
        assert weights_mb(real.spec, dtype, kind) == pytest.approx(quantized / MB, rel=0.02)
        unknown = real.spec.model_copy(update={"embeddings": 0})
        assert weights_mb(unknown, dtype, kind) == pytest.approx(quantized / MB, rel=0.2)


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_a_quantized_model_may_be_split(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers rejects a split unless offloading of unquantized layers to the CPU is enabled."""
    monkeypatch.setattr("bot.models.loading.find_spec", lambda name: object())
    monkeypatch.setattr("transformers.integrations.validate_bnb_backend_availability", lambda raise_exception: True)
    for available in ("is_bitsandbytes_available", "is_accelerate_available"):
        monkeypatch.setattr(f"transformers.quantizers.quantizer_bnb_{kind}.{available}", lambda *_: True)
    for split in (True, False):
        config = quantization_of(kind, "bfloat16", split)
        assert isinstance(config, BitsAndBytesConfig)
        assert config.llm_int8_enable_fp32_cpu_offload is split
        quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
        quantizer.validate_environment(device_map={"a": 0, "b": "cpu"} if split else {"": "cpu"})


SNAPSHOTS: dict[str, tuple[list[int | str], ...]] = {
    "phi-4": (
        [100_264, "system", 100_266, "Be brief.", 100_265, 100_264, "user", 100_266, "Hi", 100_265],
        [100_264, "assistant", 100_266, "Hello.", 100_265, 100_264, "user", 100_266, "Why?", 100_265],
        [100_264, "assistant", 100_266],
    ),
    "phi-2": (["Be brief.\nInstruct: Hi\nOutput: Hello.\nInstruct: Why?\nOutput:"],),
    "mistral-7b-instruct-v0.3": ([1, 3, "Be brief.\n\nHi", 4, "Hello.", 2, 3, "Why?", 4],),
}
"""Control tokens by their real ids, and the texts between them."""


@REAL
def test_the_prompt_has_the_models_own_control_tokens(real: Real) -> None:
    tokenizer = tokenizer_of(real.name)
    builder = PromptBuilder(tokenizer, real.spec.template, real.spec.context_window)
    ids = builder.build(prompt("Hi", "Hello.", "Why?", system="Be brief."), 100).ids
    control = {number for number, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    pieces: list[int | str] = []
    stretch: list[int] = []
    for number in [*ids, math.inf]:
        if number in control or number == math.inf:
            if stretch:
                pieces.append(str(tokenizer.decode(stretch)))
            stretch = []
            pieces += [int(number)] if number in control else []
        else:
            stretch.append(int(number))
    assert pieces == [piece for part in SNAPSHOTS[real.name] for piece in part]


@REAL
def test_special_tokens_are_where_the_configuration_says(real: Real) -> None:
    tokenizer = tokenizer_of(real.name)
    assert tokenizer.eos_token_id == real.special["eos_token_id"]
    assert set(real.ends) <= set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    assert len(tokenizer) <= config_of(real.name).vocab_size
