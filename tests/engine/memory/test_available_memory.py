"""Tests the memory that is left for models, and the estimate for a model that was never loaded."""

import shutil
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bot.engine.memory.available_memory import MB, RESERVE_MB, AvailableMemory, left_of
from bot.engine.memory.memory_estimate import MARGIN_MB, PICTURES_MB, expected, parameter_count
from bot.models.hardware import Hardware
from bot.types.engine import ModelSource
from bot.types.errors import ModelError
from tests.support.builders.system_files import lay
from tests.support.builders.tiny_vision_model import make_tiny_vision_model

pytest_plugins = ["tests.support.fixtures.engine"]

GB = 1024 * MB


def test_a_tenth_or_a_gigabyte_is_left_alone() -> None:
    assert left_of(30 * GB, 100 * GB) == 20 * GB
    assert left_of(3 * GB, 4 * GB) == 2 * GB
    assert left_of(0, 4 * GB) == -GB


def test_the_tightest_bound_counts_and_mapped_weights_are_taken(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/memory.max": str(2 * GB),
        "sys/fs/cgroup/memory.current": "0",
    }
    left = AvailableMemory(lambda: (9 * GB, 10 * GB), lay(tmp_path, files)).available()
    mapped = getattr(psutil.Process().memory_info(), "shared", 0) // MB
    assert left.gpu == 8 * 1024
    assert left.ram == pytest.approx(2048 - RESERVE_MB - mapped, abs=20)


def test_what_a_model_will_take_is_read_from_its_files(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.memory.memory_estimate.parameter_count", lambda _: 1000 * MB)
    wide = ModelSource("a", str(tiny["llama"]), device="cpu", kv_cache_mb=64, dtype="float32")
    half = replace(wide, dtype="bfloat16")
    assert (expected(wide).ram, expected(wide).gpu) == (near(4400 + 64 + MARGIN_MB), 0)
    assert expected(half).ram == near(2200 + 64 + MARGIN_MB)


def test_on_a_gpu_a_split_model_takes_of_both(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    card = Hardware("a card", "12", 24_000, 20_000, True, "a cpu", 8, 64_000, 60_000)
    monkeypatch.setattr("bot.engine.memory.memory_estimate.detect", lambda _: card)
    monkeypatch.setattr("bot.engine.memory.memory_estimate.parameter_count", lambda _: 1000 * MB)
    whole = expected(ModelSource("a", str(tiny["llama"]), kv_cache_mb=100))
    assert (whole.ram, whole.gpu) == (MARGIN_MB, near(2200 + 100 + MARGIN_MB))
    split = expected(ModelSource("a", str(tiny["llama"]), kv_cache_mb=100, gpu_layers=1))
    assert (split.ram, split.gpu) == (near(1100 + MARGIN_MB), near(1100 + 100 + MARGIN_MB))
    eight = expected(ModelSource("a", str(tiny["llama"]), kv_cache_mb=0, quantization="8bit"))
    assert eight.gpu == near(1100 + MARGIN_MB)
    both = expected(ModelSource("a", str(tiny["llama"]), kv_cache_mb=0, quantization="4bit", gpu_layers=1))
    assert both.ram == near(1100 + MARGIN_MB), "what stays in RAM is not quantized"
    assert both.gpu == near(309 + MARGIN_MB)


def near(megabytes: int) -> object:
    """Approximately equal, because each part is rounded."""
    return pytest.approx(megabytes, abs=5)


def test_numbers_are_counted_in_the_headers(tiny: dict[str, Path], tmp_path: Path) -> None:
    bytes_on_disk = (tiny["llama"] / "model.safetensors").stat().st_size
    assert parameter_count(tiny["llama"]) == pytest.approx(bytes_on_disk / 4, rel=0.02)
    shutil.copytree(tiny["llama"], tmp_path / "bad")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="is damaged"):
        parameter_count(tmp_path / "bad")


def test_a_model_that_sees_takes_more(tmp_path: Path) -> None:
    source = ModelSource("seeing", str(make_tiny_vision_model(tmp_path)), device="cpu", dtype="float32")
    seeing = expected(source)
    (tmp_path / "preprocessor_config.json").unlink()
    assert expected(source).ram == seeing.ram - PICTURES_MB
