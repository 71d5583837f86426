"""Loads that fail late: what they leave behind, and what is told."""

import shutil
import threading
from pathlib import Path

import pytest

from bot.engine.base import LoadProgress, ModelSource
from bot.engine.host import ModelHost
from bot.engine.paged import PagedBatch
from bot.errors import ModelError
from bot.models import loading

pytest_plugins = ["tests.engine_fixtures"]


def new_host() -> ModelHost:
    return ModelHost(lambda _: None, lambda _: None, lambda *_: None)


def ours() -> set[threading.Thread]:
    """The threads, without the one that watches progress bars, which comes at some time and stays."""
    return {thread for thread in threading.enumerate() if "tqdm" not in thread.name}


def unseen(progress: LoadProgress) -> None:
    """Nobody watches."""


def test_a_model_without_a_chat_template_leaves_no_batch_behind(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.engine.host.kind_for", lambda model: PagedBatch)  # whose thread is there all the time
    shutil.copytree(tiny["llama"], tmp_path / "mute")
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    before = ours()
    with pytest.raises(ModelError, match="template"):
        new_host().load(ModelSource("mute", str(tmp_path / "mute"), device="cpu"), unseen)
    assert ours() == before


def test_loading_is_done_on_a_thread_that_ends(tiny: dict[str, Path]) -> None:
    did = set()
    new_host().load(
        ModelSource("llama", str(tiny["llama"]), device="cpu"), lambda _: did.add(threading.current_thread())
    )
    assert did
    assert not did & set(threading.enumerate())


def test_too_little_memory_to_pack_is_told_in_a_sentence(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(model: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(loading, "pack", short)
    monkeypatch.setattr("bot.models.hardware._cpu_packs", lambda: True)
    with pytest.raises(ModelError, match="There is not enough memory for llama"):
        loading.load(ModelSource("llama", str(tiny["llama"]), device="cpu"), unseen)
