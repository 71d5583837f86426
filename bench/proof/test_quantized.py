"""Tests Phi-4, Phi-2 and Mistral at full width in 8 and 4 bits (bitsandbytes, CPU), and split between GPU and RAM.

The split uses accelerate's real hooks on a CPU: layers for the GPU stay in memory, the layer for RAM is on disk and
loaded whenever it computes. A real GPU is not tested.
"""

import asyncio
import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedConfig

from bot.engine.client.process import EngineProcess
from bot.engine.text.prompts import PromptBuilder
from bot.models import loading
from bot.models.fit import weights_mb
from bot.models.hardware import MB, Hardware
from bot.models.loading import layer_map, layers_of, load, weights_bytes
from bot.types.engine import ModelSource
from bot.types.messages import FinishReason
from tests.support.builders.engine_requests import GREEDY, ask, prompt
from tests.support.builders.full_width_requests import (
    QUESTIONS,
    TOKENS,
    Written,
    estimated,
    expect,
    load_measured,
    quiet,
    said,
)

pytest_plugins = ["tests.support.fixtures.full_width_models"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

BRIEF = replace(GREEDY, max_tokens=TOKENS)
MATRIX = {"8bit": torch.int8, "4bit": torch.uint8}
KINDS = pytest.mark.parametrize("kind", list(MATRIX))


@KINDS
async def test_a_quantized_batch_says_what_generate_says(
    engine: EngineProcess, written: Written, tiny_dir: Path, kind: str
) -> None:
    expected = expect(written, dtype="float32", quantization=kind)
    grown = await load_measured(engine, tiny_dir, written.source(dtype="float32", quantization=kind))
    assert grown.model.batching
    estimate = estimated(written, "float32", kind)
    assert grown.model.weights_mb == pytest.approx(estimate, rel=0.1)
    assert estimate * 0.9 <= grown.resident_mb <= estimate * 1.1 + grown.model.kv_cache_mb
    answers = await asyncio.gather(*(ask(engine, f"{kind} {i}", said, BRIEF) for i, said in enumerate(QUESTIONS)))
    assert tuple((answer.text, answer.usage.generated_tokens) for answer in answers) == expected.answers
    second = await ask(engine, "second", expected.second_turn, BRIEF)
    assert (second.text, second.usage.generated_tokens) == expected.second
    answer = await ask(engine, "red", prompt("Where?", prefix="the red"), BRIEF)
    assert (answer.text, answer.finish_reason) == (" green blue", FinishReason.STOP)


@KINDS
async def test_the_layers_matrices_are_quantized_and_nothing_else(written: Written, kind: str) -> None:
    source = written.source(dtype="bfloat16", quantization=kind)
    loaded = load(source, quiet)
    for name, parameter in loaded.model.named_parameters():
        matrix = ".layers." in name and name.endswith("weight") and "norm" not in name
        assert parameter.dtype == (MATRIX[kind] if matrix else torch.bfloat16), name
    prompts = PromptBuilder(loaded.tokenizer, source.template, source.context_window)
    answer = said(loaded, prompts, prompt("Where?", prefix="the red"), written.real.ends)
    assert answer[1] == 3
    # One layer's size, times the real number of layers, gives the whole model's.
    layers = sum(weights_bytes(layer) for layer in layers_of(loaded.model))
    whole = weights_bytes(loaded.model) - layers + layers * written.real.spec.layers / written.real.layers
    assert weights_mb(written.real.spec, "bfloat16", kind) == pytest.approx(whole / MB, rel=0.1)


async def test_split_layers_are_brought_in_to_compute(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = written.real.layers - 1

    def mapped(
        source: ModelSource, config: PreTrainedConfig, hardware: Hardware, *, multimodal: bool
    ) -> dict[str, int | str]:
        placed = layer_map(config, on_gpu)
        return {name: "cpu" if place == 0 else "disk" for name, place in placed.items()}

    source = written.source(dtype="bfloat16", gpu_layers=on_gpu)
    whole = load(source, quiet)
    prompts = PromptBuilder(whole.tokenizer, source.template, source.context_window)
    expected = said(whole, prompts, prompt(QUESTIONS[0]), written.real.ends)
    del whole
    gc.collect()
    monkeypatch.setattr(loading, "device_map_of", mapped)
    split = load(source, quiet)
    assert split.offloaded
    assert split.note == f"{on_gpu} layers are on the GPU and the rest in RAM, which is slow."
    for number, layer in enumerate(layers_of(split.model)):
        away = {parameter.device.type for parameter in layer.parameters()}
        assert away == ({"cpu"} if number < on_gpu else {"meta"})
    assert said(split, prompts, prompt(QUESTIONS[0]), written.real.ends) == expected
