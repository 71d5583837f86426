"""Loads that fail late: what they leave behind, and what is told."""

import shutil
import threading
from pathlib import Path

import pytest

from bot.engine.base import LoadProgress, ModelSource
from bot.engine.host import ModelHost
from bot.errors import ModelError
from bot.models import loading

pytest_plugins = ["tests.engine_fixtures"]


def batches() -> int:
    return sum(thread.name == "batch" for thread in threading.enumerate())


def unseen(progress: LoadProgress) -> None:
    """Nobody watches."""


def test_a_model_without_a_chat_template_leaves_no_batch_behind(tiny: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny["llama"], tmp_path / "mute")
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    before = batches()
    with pytest.raises(ModelError, match="template"):
        ModelHost(lambda _: None, lambda _: None, lambda *_: None).load(
            ModelSource("mute", str(tmp_path / "mute"), device="cpu"), unseen
        )
    assert batches() == before


def test_too_little_memory_to_pack_is_told_in_a_sentence(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(model: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(loading, "pack", short)
    monkeypatch.setattr("bot.models.hardware._cpu_packs", lambda: True)
    with pytest.raises(ModelError, match="There is not enough memory for llama"):
        loading.load(ModelSource("llama", str(tiny["llama"]), device="cpu"), unseen)
