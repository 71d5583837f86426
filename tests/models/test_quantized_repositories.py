"""Tests repositories whose weights are quantized already: loaded where that works, else refused with advice."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bot.config.settings import load_settings
from bot.engine.memory.memory_estimate import parameter_count
from bot.models.loading import TransformersModel, load, weights_bytes
from bot.models.model_directory import from_config
from bot.models.model_spec import ModelSpec
from bot.types.engine import ModelSource
from bot.types.errors import ModelError
from tests.support.builders.hub_models import NAME, SPEC, hub, whole
from tests.support.builders.tiny_models import make_tiny
from tests.support.fakes.hub import FakeHub

BLOCK = 32
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
BNB = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
"""As written by older versions: without quant_method."""
COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}}
QUARK = {"quant_method": "quark"}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}

INSTEAD = "Use the original repository of the model; INHOUSE_QUANTIZATION=4bit or 8bit quantizes its weights"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny("llama", tmp_path / "tiny")


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with FakeHub() as server:
        yield server


def configure(folder: Path, change: Mapping[str, object]) -> Path:
    """Changes fields of a model's config.json."""
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    return folder


def loaded(folder: Path, dtype: str = "float32", quantization: str = "none") -> TransformersModel:
    source = ModelSource("tiny", str(folder), device="cpu", dtype=dtype, quantization=quantization)
    return load(source, lambda _: None)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        loaded(folder)
    return str(caught.value)


@pytest.mark.parametrize("quantized", [AWQ, GPTQ, COMPRESSED, QUARK], ids=lambda config: config["quant_method"])
def test_what_cannot_be_loaded_is_refused_with_advice(tiny: Path, quantized: dict[str, object]) -> None:
    said = refusal(configure(tiny, {"quantization_config": quantized}))
    assert f"quantized already ({quantized['quant_method']})" in said
    assert INSTEAD in said
    assert "delete" not in said, "nothing is damaged"


def test_bitsandbytes_is_named_if_only_it_is_missing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    said = refusal(configure(tiny, {"quantization_config": BNB}))
    assert "pip install 'inhouse[quantize]'" in said


def test_weights_that_are_not_what_the_config_says_get_the_same_advice(tiny: Path) -> None:
    assert INSTEAD in refusal(configure(tiny, {"quantization_config": {"quant_method": "bitnet"}}))


@pytest.mark.parametrize("setting", ["none", "4bit", "8bit"])
def test_a_bnb_4bit_repository_loads_whatever_the_setting_says(tiny: Path, tmp_path: Path, setting: str) -> None:
    quantized = loaded(tiny, quantization="4bit").model
    folder = Path(shutil.copytree(tiny, tmp_path / "bnb"))
    quantized.save_pretrained(folder)
    model = loaded(folder, quantization=setting).model
    ids = model.dummy_inputs["input_ids"] % model.config.vocab_size
    assert torch.equal(model(ids).logits, quantized(ids).logits)
    megabytes = 2 * parameter_count(folder)
    float32 = sum(weight.nbytes for weight in model.parameters() if weight.dtype == torch.float32)
    assert megabytes == pytest.approx(weights_bytes(model) - float32 / 2, rel=0.15)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fp8_weights_are_expanded_on_a_cpu(tiny: Path, tmp_path: Path, dtype: str) -> None:
    folder = fp8(tiny, tmp_path / "fp8")
    found = loaded(folder, dtype)
    assert {weight.dtype for weight in found.model.parameters()} == {getattr(torch, dtype)}
    assert "The fp8 weights were expanded" in found.note
    plain = AutoModelForCausalLM.from_pretrained(tiny)
    ids = plain.dummy_inputs["input_ids"] % plain.config.vocab_size
    error = (found.model(ids).logits.float() - plain(ids).logits).abs().mean()
    assert error < 0.1 * plain(ids).logits.abs().mean()
    scales = sum(weight.numel() // BLOCK**2 for name, weight in plain.named_parameters() if "proj" in name)
    assert parameter_count(folder) == plain.num_parameters() + scales


def fp8(tiny: Path, folder: Path) -> Path:
    """A copy of a model with its projections in FP8, one scale for each block."""
    shutil.copytree(tiny, folder)
    written = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        written[name] = weight
        if "proj" in name:
            rows, columns = weight.shape
            blocks = weight.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
            scale = blocks.abs().amax((1, 3)) / 448
            written[name] = (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
            written[f"{name}_scale_inv"] = scale
    save_file(written, folder / "model.safetensors", metadata={"format": "pt"})
    return configure(folder, {"quantization_config": FP8})


@pytest.mark.parametrize(("method", "parameters"), [("fp8", 1000), ("mxfp4", 1886), ("awq", 500)])
def test_the_estimate_before_a_load_knows_the_format(tmp_path: Path, method: str, parameters: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": method}}))
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    assert from_config(ModelSpec(name="m"), tmp_path).parameters == parameters


def test_an_awq_repository_is_refused_before_its_download(fake: FakeHub, home: Path) -> None:
    fake.repos[NAME] = whole(**{"config.json": json.dumps({"quantization_config": AWQ}).encode()})
    with pytest.raises(ModelError, match=r"quantized already \(awq\).* original repository"):
        hub(fake, load_settings(), home).plan(SPEC)
