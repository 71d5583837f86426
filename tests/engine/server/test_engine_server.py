"""Tests loads that fail late: their cleanup and their error messages."""

import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bot.engine.cpu.cpu_batch import CpuBatch
from bot.engine.gpu.flat_batch import FlatBatch
from bot.engine.gpu.paged_batch import PagedBatch
from bot.engine.server.batched_generator import BatchType, kind_for
from bot.engine.server.engine_server import EngineServer
from bot.models import loading
from bot.models.device_errors import Unrecoverable
from bot.models.hardware import CpuCapabilities
from bot.types.engine import LoadProgress, ModelSource
from bot.types.errors import ModelError
from tests.support.builders.tiny_models import make_tokenizer

pytest_plugins = ["tests.support.fixtures.engine"]


def new_host() -> EngineServer:
    return EngineServer(lambda _: None, lambda _: None, lambda *_: None)


def ours() -> set[threading.Thread]:
    """The threads without tqdm's monitor, which starts at any time and does not end."""
    return {thread for thread in threading.enumerate() if "tqdm" not in thread.name}


def unseen(progress: LoadProgress) -> None:
    """Ignores the progress of a load."""


def test_a_model_without_a_chat_template_leaves_no_batch_behind(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.engine.server.engine_server.kind_for", lambda *_: PagedBatch)  # whose thread always exists
    shutil.copytree(tiny["llama"], tmp_path / "mute")
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    before = ours()
    with pytest.raises(ModelError, match="template"):
        new_host().load(ModelSource("mute", str(tmp_path / "mute"), device="cpu"), unseen)
    assert not ours() - before


def test_a_model_whose_layers_differ_in_shape_answers_one_at_a_time(tmp_path: Path) -> None:
    """Gemma 4's layers without a sliding window have wider heads than the others."""
    tokenizer = make_tokenizer()
    config = AutoConfig.for_model(
        "gemma4_text",
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        global_head_dim=32,
        layer_types=["sliding_attention", "full_attention"],
        hidden_size_per_layer_input=0,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")
    source = ModelSource("gemma", str(tmp_path / "gemma"), device="cpu", dtype="float32")
    loaded = new_host().load(source, unseen)
    assert not loaded.batching
    assert "one request at a time" in loaded.note


@pytest.mark.parametrize(
    ("device", "gpu_batch", "kind"),
    [
        ("cpu", "library", CpuBatch),
        ("cpu", "rows", CpuBatch),
        ("cuda", "library", PagedBatch),
        ("cuda", "rows", FlatBatch),
    ],
)
def test_a_batch_suits_the_device_and_the_setting(device: str, gpu_batch: str, kind: BatchType) -> None:
    model: Any = SimpleNamespace(device=torch.device(device))
    assert kind_for(model, gpu_batch) is kind


def test_loading_is_done_on_a_thread_that_ends(tiny: dict[str, Path]) -> None:
    did = set()
    new_host().load(
        ModelSource("llama", str(tiny["llama"]), device="cpu"), lambda _: did.add(threading.current_thread())
    )
    assert did
    assert not did & set(threading.enumerate())


def test_too_little_memory_to_pack_is_reported_in_a_sentence(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(model: object, dtype: str) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(loading, "pack", short)
    monkeypatch.setattr("bot.models.hardware.cpu_capabilities", lambda: CpuCapabilities(fbgemm=True))
    with pytest.raises(ModelError, match="There is not enough memory for llama"):
        loading.load(ModelSource("llama", str(tiny["llama"]), device="cpu"), unseen)


def test_no_text_is_longer_than_the_bound_of_the_rotary_embedding(tiny: dict[str, Path], tmp_path: Path) -> None:
    """LongRoPE selects its factors by the longest text of a step, which would change other texts' keys."""
    folder = tmp_path / "phi3"
    shutil.copytree(tiny["phi3"], folder)
    config = json.loads((folder / "config.json").read_text())
    width = config["hidden_size"] // config["num_attention_heads"] // 2
    config["rope_parameters"] = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * width,
        "long_factor": [2.0] * width,
        "original_max_position_embeddings": 64,
    }
    config["original_max_position_embeddings"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    assert config["max_position_embeddings"] > 64
    told = new_host().load(ModelSource("phi3", str(folder), device="cpu"), unseen)
    assert (told.batching, told.context_window) == (True, 64)


def test_a_lost_device_is_no_ordinary_failure_of_a_load(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """At whichever call it happens first: here when the previous model's memory is freed."""

    def lost() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("bot.engine.server.model_cache.release_memory", lost)
    with pytest.raises(Unrecoverable):
        new_host().load(ModelSource("llama", str(tiny["llama"]), device="cpu"), unseen)
