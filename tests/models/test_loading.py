"""Tests loading with the real transformers on tiny models, and one sentence for each defect of a directory."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from bot.models import loading
from bot.models.hardware import choose_dtype
from bot.models.loading import layer_map, load, weights_bytes
from bot.types.engine import LoadProgress, ModelSource
from bot.types.errors import ModelError
from tests.support.builders.processors import PROCESSORS, capabilities
from tests.support.builders.tiny_models import KINDS, make_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of every kind."""
    folder = tmp_path_factory.mktemp("tiny")
    return {kind: make_tiny(kind, folder / kind) for kind in KINDS}


def source(
    folder: Path, device: str = "cpu", dtype: str = "float32", gpu_layers: int | None = None, quantization: str = "none"
) -> ModelSource:
    return ModelSource(
        "tiny", str(folder), device=device, dtype=dtype, gpu_layers=gpu_layers, quantization=quantization
    )


def ignore(_: LoadProgress) -> None:
    pass


@pytest.fixture
def broken(tiny: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a tiny model, for tests that damage it."""
    return Path(shutil.copytree(tiny["llama"], tmp_path / "broken"))


def refusal(folder: Path, quantization: str = "none") -> str:
    with pytest.raises(ModelError) as caught:
        load(source(folder, quantization=quantization), ignore)
    told = str(caught.value)
    assert "\n" not in told, "one sentence"
    return told


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_loads_and_knows_its_words(tiny: dict[str, Path], kind: str) -> None:
    loaded = load(source(tiny[kind]), ignore)
    assert loaded.model.dtype == torch.float32
    assert str(loaded.model.device) == "cpu"
    assert not loaded.model.training
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("Paris, naïve 🙂")) == "Paris, naïve 🙂"
    assert not loaded.offloaded
    assert loaded.note == "The CPU is used: it was asked for."


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_number_type_is_the_one_asked_for_or_the_processors(
    tiny: dict[str, Path], processor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    able, packed = capabilities(processor), dict[object, str]()
    monkeypatch.setattr("bot.models.hardware.cpu_capabilities", lambda: able)
    monkeypatch.setattr(loading, "pack", packed.__setitem__)  # its kernels do not run on every CPU
    for dtype in ("float32", "bfloat16", "float16", "auto"):
        loaded = load(source(tiny["phi"], dtype=dtype), ignore)
        assert loaded.dtype == choose_dtype(dtype, loaded.hardware)
        assert packed.get(loaded.model) == (loaded.dtype if loaded.dtype in able.packs else None)
        # Packing float16 starts from mapped weights, in the dtype of their file.
        mapped = packed.get(loaded.model) == "float16"
        assert loaded.model.dtype == (torch.float32 if mapped else getattr(torch, loaded.dtype))


def test_no_layers_on_the_gpu_means_the_cpu(tiny: dict[str, Path]) -> None:
    loaded = load(source(tiny["llama"], device="auto", gpu_layers=0), ignore)
    assert str(loaded.model.device) == "cpu"


def test_layers_on_a_gpu_that_is_not_there_are_mentioned(tiny: dict[str, Path]) -> None:
    loaded = load(source(tiny["llama"], gpu_layers=3), ignore)
    assert loaded.note == "The CPU is used: it was asked for. INHOUSE_GPU_LAYERS=3 has no effect."


def test_a_load_tells_how_far_it_is_and_prints_nothing(
    tiny: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[LoadProgress] = []
    load(source(tiny["mistral"]), steps.append)
    assert capfd.readouterr() == ("", "")
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    assert len(fractions) > 3
    assert fractions[-1] == 0.85


@pytest.mark.fault(30)
def test_a_damaged_weight_file(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "is damaged" in refusal(broken)


def test_files_of_the_hubs_cache_are_named_by_what_has_to_be_deleted(broken: Path, tmp_path: Path) -> None:
    """Deleting only a snapshot would keep the damaged blob that it links to."""
    (broken / "model.safetensors").write_bytes(b"nothing")
    snapshot = tmp_path / "models--acme--chatty" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    broken.rename(snapshot)
    assert refusal(snapshot).endswith(f"delete {snapshot.parents[1]} and run `inhouse pull tiny`.")


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("model.safetensors", "holds no safetensors weights"),
        ("config.json", "it has no config.json"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
@pytest.mark.fault(30)
def test_a_missing_file(broken: Path, gone: str, sentence: str) -> None:
    (broken / gone).unlink()
    assert sentence in refusal(broken)


@pytest.mark.fault(30)
def test_a_missing_directory(tmp_path: Path) -> None:
    assert "There is no directory" in refusal(tmp_path / "nowhere")


def test_a_missing_part_of_the_weights(broken: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks 1 of 2 weight files, such as model-2.safetensors" in refusal(broken)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "llama9"}, "Update transformers"),
        ({"model_type": "acme", "auto_map": {"AutoConfig": "code.Config"}}, "running its own code"),
        ({"model_type": "mamba"}, "does not support SDPA attention"),
        ({"num_hidden_layers": 5}, "do not belong to its config.json"),
        ({"vocab_size": 1234}, "do not belong to its config.json"),
        ({"model_type": None}, "cannot"),
        ({"hidden_size": 63}, ""),
        ({"hidden_size": "wide"}, ""),
    ],
)
def test_a_config_that_does_not_fit(broken: Path, change: dict[str, object], sentence: str) -> None:
    config = broken / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    assert sentence in refusal(broken)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[1, 2]", "\0"])
def test_a_file_that_is_not_what_it_should_be(broken: Path, name: str, content: str) -> None:
    (broken / name).write_text(content)
    assert str(broken) in refusal(broken)


@pytest.mark.fault(30)
def test_pickled_weights_are_never_opened(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert "can run code, and are not loaded" in refusal(broken)


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_quantization_without_its_library_names_the_extra(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert "pip install 'inhouse[quantize]'" in refusal(tiny["llama"], quantization=kind)


def test_the_scales_of_4_bits_count_as_memory(tiny: dict[str, Path]) -> None:
    model = load(source(tiny["llama"], quantization="4bit"), ignore).model
    halves = sum(weight.numel() for weight in model.parameters() if weight.dtype == torch.uint8)  # two numbers per byte
    others = sum(weight.nbytes for weight in (*model.parameters(), *model.buffers())) - halves
    assert weights_bytes(model) - others == pytest.approx(2 * halves * 0.5625, rel=0.001)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_shared_out_and_nothing_is_left_over(tiny: dict[str, Path], kind: str) -> None:
    config = AutoConfig.from_pretrained(tiny[kind])
    placed = layer_map(config, 1)
    assert {name for name, place in placed.items() if place == "cpu"} == {"model.layers.1"}
    assert placed["model.embed_tokens"] == placed["model.layers.0"] == placed["lm_head"] == 0
    model = load(source(tiny[kind]), ignore).model
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        assert len([part for part in placed if f"{name}.".startswith(f"{part}.")]) == 1, name
