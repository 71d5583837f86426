"""Tests float16 weights with float32 arithmetic: the same answers in half the memory."""

import stat
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from bot.engine.client.process import EngineProcess
from bot.models.fit import weights_mb
from bot.models.hardware import choose_dtype, cpu_capabilities, detect, is_packed
from bot.models.model_directory import from_config
from bot.models.model_spec import ModelSpec
from bot.models.packing import LARGEST, HalfEmbedding, PackedLinear, pack, packed_bytes
from tests.support.builders.engine_requests import Reference, ask, load
from tests.support.builders.tiny_models import KINDS

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = pytest.mark.skipif(
    not cpu_capabilities().fbgemm, reason="FBGEMM's kernels need an x86 processor with AVX2"
)


def model_of(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_logits_stay_what_they_are_with_the_weights_rounded(tiny: dict[str, Path], kind: str) -> None:
    model, rounded = model_of(tiny[kind]), model_of(tiny[kind], torch.float16).float()
    ids = torch.arange(40).unsqueeze(0) * 5 % model.config.vocab_size
    pack(model)
    torch.testing.assert_close(model(ids).logits, rounded(ids).logits, rtol=1e-3, atol=1e-3)
    assert model.dtype == torch.float32
    assert not any(type(module) is nn.Linear for module in model.modules())


def test_two_bytes_a_number_and_none_beside(tiny: dict[str, Path]) -> None:
    model = model_of(tiny["phi3"])
    numbers = model.num_parameters()
    pack(model)
    left = sum(parameter.numel() for parameter in model.parameters())
    assert packed_bytes(model) == 2 * (numbers - left)
    assert left < numbers / 50, "only norms are left"


def test_what_float16_cannot_hold_stays_as_it_is() -> None:
    large, usual, table = nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(4, 4)
    with torch.no_grad():
        large.weight[0, 0] = LARGEST * 2
        table.weight[0, 0] = float("nan")
    model = nn.ModuleList([large, usual, table])
    pack(model)
    assert [type(module) for module in model.children()] == [nn.Linear, PackedLinear, nn.Embedding]


class Attention(nn.Module):
    def __init__(self, q_bias: bool = True) -> None:
        super().__init__()
        self.q_proj = nn.Linear(6, 8, bias=q_bias)
        self.k_proj, self.v_proj = nn.Linear(6, 4), nn.Linear(6, 2)


@torch.inference_mode()
def test_layers_of_one_line_are_computed_together_whatever_line_each_is_given() -> None:
    module = Attention()
    layers = [nn.Linear(6, out).bfloat16().float() for out in (8, 4, 2)]  # exact in float16
    module.q_proj, module.k_proj, module.v_proj = layers
    pack(module)
    q, k, v = shares = list[nn.Module](module.children())
    assert [type(share) for share in shares] == [PackedLinear] * 3
    one, other = torch.randn(1, 5, 6), torch.randn(1, 5, 6)
    for asked in ([(q, one), (k, one), (v, one)], [(v, one), (q, other), (q, one), (q, one), (k, other), (v, other)]):
        for share, line in asked:
            expected = layers[shares.index(share)](line)
            torch.testing.assert_close(share(line), expected, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_what_is_computed_together_is_computed_once() -> None:
    module, line = Attention(), torch.randn(1, 5, 6)
    pack(module)
    made = [layer(line) for layer in module.children()]
    assert len({each.untyped_storage().data_ptr() for each in made}) == 1


@pytest.mark.parametrize("kind", ["llama", "mistral", "phi"])
def test_the_models_have_layers_of_one_line(tiny: dict[str, Path], kind: str) -> None:
    model = model_of(tiny[kind])
    pack(model)
    groups = set()
    for parent in model.modules():
        together: dict[int, set[str]] = {}
        layers = {name: layer for name, layer in parent.named_children() if isinstance(layer, PackedLinear)}
        lines = {layer.in_features: torch.randn(1, 2, layer.in_features) for layer in layers.values()}
        made = {name: layer(lines[layer.in_features]) for name, layer in layers.items()}
        for name, output in made.items():
            together.setdefault(output.untyped_storage().data_ptr(), set()).add(name)
        groups |= {frozenset(names) for names in together.values() if len(names) > 1}
    expected = {frozenset({"q_proj", "k_proj", "v_proj"}), frozenset({"gate_proj", "up_proj"})}
    assert groups == (expected if kind != "phi" else {frozenset({"q_proj", "k_proj", "v_proj"})})


@torch.inference_mode()
def test_what_was_computed_together_is_let_go_with_the_last_layers_share() -> None:
    module = Attention()
    pack(module)
    line = torch.randn(1, 5, 6)
    gone = weakref.ref(line)
    for share in (module.q_proj, module.k_proj, module.v_proj):
        share(line)
    del line
    assert gone() is None


@torch.inference_mode()
def test_layers_that_are_not_alike_stay_apart() -> None:
    module, line = Attention(q_bias=False), torch.randn(1, 5, 6)
    pack(module)
    assert {type(layer) for layer in module.children()} == {PackedLinear}
    made = [layer(line) for layer in module.children()]
    assert len({each.untyped_storage().data_ptr() for each in made}) == 3


@torch.inference_mode()
def test_a_tied_table_becomes_both_an_embedding_and_a_linear_layer() -> None:
    table, head = nn.Embedding(6, 4), nn.Linear(4, 6)
    head.weight = table.weight
    weight, bias = table.weight.detach().half().float(), head.bias.detach()
    model = nn.ModuleList([table, head])
    pack(model)
    assert isinstance(model[0], HalfEmbedding)
    line = model[0](torch.tensor([2, 5]))
    torch.testing.assert_close(line, weight[[2, 5]])
    torch.testing.assert_close(model[1](line), line @ weight.T + bias, rtol=1e-3, atol=1e-3)


@pytest.mark.asyncio(loop_scope="session")
async def test_the_engine_chooses_on_its_own_and_says_so(engine: EngineProcess, smollm2_dir: Path) -> None:
    here = detect("cpu")
    dtype = choose_dtype("auto", here)
    loaded = await load(engine, smollm2_dir, dtype="auto")
    assert loaded.dtype == dtype
    spec = from_config(ModelSpec(name="smollm2"), smollm2_dir)
    assert loaded.weights_mb == pytest.approx(weights_mb(spec, dtype, packed=is_packed(dtype, here)), rel=0.02)


PACKING = f"""#!{sys.executable}
from bot.models import hardware
hardware.cpu_capabilities = lambda: hardware.CpuCapabilities(fbgemm=True)
from bot.engine.server.runner import main
main()
"""
"""Starts the engine as on a CPU that packs, whatever this one is."""


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
