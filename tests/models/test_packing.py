"""Tests packed weights: the same answers in half the memory with float16, the same within rounding with bfloat16."""

import copy
import gc
import stat
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bot.engine.client.process import EngineProcess
from bot.models.fit import weights_mb
from bot.models.hardware import choose_dtype, cpu_capabilities, detect, is_packed
from bot.models.loading import weights_bytes
from bot.models.model_directory import from_config
from bot.models.model_spec import ModelSpec
from bot.models.packing import LARGEST, HalfEmbedding, PackedLinear, pack, packed_bytes
from tests.support.builders.engine_requests import Reference, ask, load
from tests.support.builders.tiny_models import KINDS

pytest_plugins = ["tests.support.fixtures.engine"]
ABLE = cpu_capabilities()
NO_FBGEMM = pytest.mark.skipif(not ABLE.fbgemm, reason="FBGEMM's kernels need an x86 processor with AVX2")
NO_ONEDNN = pytest.mark.skipif(not ABLE.onednn, reason="oneDNN's bfloat16 kernels need an x86 processor with AVX512")
FORMATS = [pytest.param("float16", marks=NO_FBGEMM), pytest.param("bfloat16", marks=NO_ONEDNN)]
SOURCES = {"float16": torch.float32, "bfloat16": torch.bfloat16}
ROUNDING = {"float16": 1e-3, "bfloat16": 2e-2}


def model_of(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_logits_stay_what_they_are_with_the_weights_rounded(tiny: dict[str, Path], kind: str, dtype: str) -> None:
    source = SOURCES[dtype]
    model, rounded = model_of(tiny[kind], source), model_of(tiny[kind], getattr(torch, dtype))
    ids = torch.arange(40).unsqueeze(0) * 5 % model.config.vocab_size
    usual = model_of(tiny[kind], torch.bfloat16)(ids).logits if dtype == "bfloat16" else None
    exact = rounded.float()(ids).logits
    pack(model, dtype)
    found = model(ids).logits
    if usual is None:
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)
    else:
        error, as_usual = ((each.float() - exact).abs().mean() for each in (found, usual))
        assert error < 1.2 * as_usual, "further from float32 than the layers that torch computes in bfloat16"
    assert model.dtype == source
    assert not any(type(module) is nn.Linear for module in model.modules())


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("sizes", [(576, 960), (1536, 576), (7, 3)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_layer_computes_what_float32_does(sizes: tuple[int, int], bias: bool, dtype: str) -> None:
    linear = nn.Linear(*sizes, bias=bias).bfloat16().float()  # exact in both formats
    module = nn.ModuleList([copy.deepcopy(linear).to(SOURCES[dtype])])
    pack(module, dtype)
    for tokens in (1, 8, 17):
        line = torch.randn(1, tokens, sizes[0]).bfloat16().float()
        found = module[0](line.to(SOURCES[dtype]))
        assert found.dtype == SOURCES[dtype]
        torch.testing.assert_close(found.float(), linear(line), rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", FORMATS)
def test_two_bytes_a_number_and_none_beside(tiny: dict[str, Path], dtype: str) -> None:
    model = model_of(tiny["phi3"], SOURCES[dtype])
    numbers = model.num_parameters()
    weights = [weakref.ref(module.weight) for module in model.modules() if type(module) is nn.Linear]
    pack(model, dtype)
    left = sum(parameter.numel() for parameter in model.parameters())
    assert packed_bytes(model) == 2 * (numbers - left)
    assert weights_bytes(model) == pytest.approx(2 * numbers, rel=0.02)
    gc.collect()
    assert not any(weight() is not None for weight in weights), "the original weights are still in memory"
    names = {name for name, _ in model.named_parameters()}
    assert all("norm" in name or name == "model.embed_tokens.weight" for name in names), names
    assert ("model.embed_tokens.weight" in names) == (dtype == "bfloat16")


@NO_FBGEMM
def test_what_float16_cannot_hold_stays_as_it_is() -> None:
    large, usual, table = nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(4, 4)
    with torch.no_grad():
        large.weight[0, 0] = LARGEST * 2
        table.weight[0, 0] = float("nan")
    model = nn.ModuleList([large, usual, table])
    pack(model, "float16")
    assert [type(module) for module in model.children()] == [nn.Linear, PackedLinear, nn.Embedding]


@NO_ONEDNN
def test_a_layer_that_the_model_keeps_in_float32_stays_as_it_is() -> None:
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4, dtype=torch.bfloat16)])
    pack(model, "bfloat16")
    assert [type(module) for module in model.children()] == [nn.Linear, PackedLinear]
    assert model[0](torch.ones(4)).dtype == torch.float32


class Attention(nn.Module):
    def __init__(self, dtype: str, q_bias: bool = True) -> None:
        super().__init__()
        self.q_proj = nn.Linear(6, 8, bias=q_bias)
        self.k_proj, self.v_proj = nn.Linear(6, 4), nn.Linear(6, 2)
        self.bfloat16().to(SOURCES[dtype])  # exact in both formats


def a_line(dtype: str, width: int = 6) -> Tensor:
    return torch.randn(1, 5, width).to(SOURCES[dtype])


@pytest.mark.parametrize("dtype", FORMATS)
@torch.inference_mode()
def test_layers_of_one_line_are_computed_together_whatever_line_each_is_given(dtype: str) -> None:
    module = Attention(dtype)
    layers = list(copy.deepcopy(module).children())
    pack(module, dtype)
    q, k, v = shares = list[nn.Module](module.children())
    assert [type(share) for share in shares] == [PackedLinear] * 3
    one, other = a_line(dtype), a_line(dtype)
    for asked in ([(q, one), (k, one), (v, one)], [(v, one), (q, other), (q, one), (q, one), (k, other), (v, other)]):
        for share, line in asked:
            expected = layers[shares.index(share)](line)
            torch.testing.assert_close(share(line), expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", FORMATS)
@torch.inference_mode()
def test_what_is_computed_together_is_computed_once(dtype: str) -> None:
    module, line = Attention(dtype), a_line(dtype)
    pack(module, dtype)
    made = [layer(line) for layer in module.children()]
    assert len({each.untyped_storage().data_ptr() for each in made}) == 1


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("kind", ["llama", "mistral", "phi"])
def test_the_models_have_layers_of_one_line(tiny: dict[str, Path], kind: str, dtype: str) -> None:
    model = model_of(tiny[kind], SOURCES[dtype])
    pack(model, dtype)
    groups = set()
    for parent in model.modules():
        together: dict[int, set[str]] = {}
        layers = {name: layer for name, layer in parent.named_children() if isinstance(layer, PackedLinear)}
        lines = {layer.in_features: a_line(dtype, layer.in_features) for layer in layers.values()}
        made = {name: layer(lines[layer.in_features]) for name, layer in layers.items()}
        for name, output in made.items():
            together.setdefault(output.untyped_storage().data_ptr(), set()).add(name)
        groups |= {frozenset(names) for names in together.values() if len(names) > 1}
    expected = {frozenset({"q_proj", "k_proj", "v_proj"}), frozenset({"gate_proj", "up_proj"})}
    assert groups == (expected if kind != "phi" else {frozenset({"q_proj", "k_proj", "v_proj"})})


@pytest.mark.parametrize("dtype", FORMATS)
@torch.inference_mode()
def test_what_was_computed_together_is_let_go_with_the_last_layers_share(dtype: str) -> None:
    module = Attention(dtype)
    pack(module, dtype)
    line = a_line(dtype)
    gone = weakref.ref(line)
    for share in (module.q_proj, module.k_proj, module.v_proj):
        share(line)
    del line
    assert gone() is None


@pytest.mark.parametrize("dtype", FORMATS)
@torch.inference_mode()
def test_layers_that_are_not_alike_stay_apart(dtype: str) -> None:
    module, line = Attention(dtype, q_bias=False), a_line(dtype)
    pack(module, dtype)
    assert {type(layer) for layer in module.children()} == {PackedLinear}
    made = [layer(line) for layer in module.children()]
    assert len({each.untyped_storage().data_ptr() for each in made}) == 3


@pytest.mark.parametrize("dtype", FORMATS)
@torch.inference_mode()
def test_a_tied_table_becomes_both_an_embedding_and_a_linear_layer(dtype: str) -> None:
    table, head = nn.Embedding(6, 4), nn.Linear(4, 6)
    head.weight = table.weight
    model = nn.ModuleList([table, head]).bfloat16().to(SOURCES[dtype])
    weight, bias = table.weight.detach().clone(), head.bias.detach().clone()
    pack(model, dtype)
    assert [type(module) for module in model] == [
        HalfEmbedding if dtype == "float16" else nn.Embedding,
        PackedLinear,
    ]
    line = model[0](torch.tensor([2, 5]))
    torch.testing.assert_close(line, weight[[2, 5]])
    torch.testing.assert_close(model[1](line), line @ weight.T + bias, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    assert weights_bytes(model) == 2 * (24 + 24), "both keep the weights, in two bytes each"


@pytest.mark.parametrize("setting", ["auto", "float16", "bfloat16"])
@pytest.mark.asyncio(loop_scope="session")
async def test_the_engine_chooses_on_its_own_and_says_so(
    engine: EngineProcess, smollm2_dir: Path, setting: str
) -> None:
    here = detect("cpu")
    dtype = choose_dtype(setting, here)
    loaded = await load(engine, smollm2_dir, dtype=setting)
    assert loaded.dtype == dtype
    assert loaded.batching
    assert "Paris" in (await ask(engine, setting, "What is the capital of France?")).text
    spec = from_config(ModelSpec(name="smollm2"), smollm2_dir)
    assert loaded.weights_mb == pytest.approx(weights_mb(spec, dtype, packed=is_packed(dtype, here)), rel=0.02)


PACKING = f"""#!{sys.executable}
from bot.models import hardware
hardware.cpu_capabilities = lambda: hardware.CpuCapabilities(fbgemm=True)
from bot.engine.server.runner import main
main()
"""
"""Starts the engine as on a CPU that packs, whatever this one is."""


@NO_FBGEMM
@pytest.mark.asyncio(loop_scope="session")
async def test_a_packed_engine_answers_as_the_library_does(
    smollm2_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "packing-python"
    script.write_text(PACKING)
    script.chmod(stat.S_IRWXU)
    reference = Reference(smollm2_dir)
    engine = EngineProcess()
    try:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", str(script))
            whole = await load(engine, smollm2_dir)
        packed = await load(engine, smollm2_dir, dtype="auto")
        assert (whole.dtype, packed.dtype) == ("float32", "float16")
        assert packed.weights_mb < 0.65 * whole.weights_mb
        spec = from_config(ModelSpec(name="smollm2"), smollm2_dir)
        assert packed.weights_mb == pytest.approx(weights_mb(spec, "float16", packed=True), rel=0.02)
        questions = ("What is the capital of France?", "Name three colours.", "What is 2 + 2?")
        for number, question in enumerate(questions):
            answer = await ask(engine, f"packed {number}", question)
            assert (answer.text, answer.usage.generated_tokens) == reference.answer(question)
    finally:
        await engine.close()
