"""Tests the decisions of the model cache (what stays, what is evicted first, and where to) on a simulated machine."""

from pathlib import Path
from typing import Any

import pytest

from bot.engine.memory.leak_detector import MemoryUsage
from bot.engine.server.model_cache import CachedModel, next_eviction
from bot.types.engine import ModelSource
from bot.types.errors import ModelError
from tests.support.builders.model_cache import CACHE, WEIGHTS, Machine, ModelCacheSetup


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCacheSetup:
    """A model cache on a CPU. An evicted model frees its memory at once; each estimate is WEIGHTS + CACHE."""
    setup = ModelCacheSetup(tmp_path, Machine())

    def needs(source: ModelSource) -> MemoryUsage:
        return MemoryUsage(WEIGHTS + CACHE, 0) if setup.device == "cpu" else MemoryUsage(0, WEIGHTS + CACHE)

    monkeypatch.setattr("bot.engine.server.model_cache.expected", needs)
    monkeypatch.setattr("bot.engine.server.model_cache.release_memory", lambda: None)
    return setup


def test_a_model_that_is_kept_is_the_same_one(setup: ModelCacheSetup) -> None:
    first, second = setup.bring("a"), setup.bring("b")
    assert setup.bring("a") is first
    assert list(setup.cached_models.names) == ["a", "b"]
    assert setup.bring("b") is second
    assert list(setup.cached_models.names) == ["b", "a"]
    assert setup.log == ["load a", "host a", "load b", "host b"]


@pytest.mark.parametrize("how", [{"dtype": "bfloat16"}, {"quantization": "8bit"}, {"context_window": 100}])
def test_another_way_of_loading_it_is_another_model(setup: ModelCacheSetup, how: dict[str, Any]) -> None:
    assert setup.bring("a") is not setup.bring("a", **how)
    assert setup.log.count("load a") == 2


def test_a_model_whose_files_changed_is_read_again_and_the_old_one_goes(setup: ModelCacheSetup) -> None:
    setup.bring("a")
    with (setup.root / "a" / "model.safetensors").open("ab") as file:
        file.write(b"more")
    setup.bring("a")
    assert setup.log == ["load a", "host a", "drop a", "load a", "host a"]
    assert list(setup.cached_models.names) == ["a"]


def test_the_longest_unused_goes_and_only_as_many_as_are_needed(setup: ModelCacheSetup) -> None:
    setup.machine.ram = 300 + 3 * (WEIGHTS + CACHE)
    for name in ("a", "b", "c", "a", "d"):
        setup.bring(name)
    assert [line for line in setup.log if "drop" in line] == ["drop b"]
    assert list(setup.cached_models.names) == ["d", "a", "c"]
    assert setup.machine.available().ram == 3 * CACHE, "what caches are still going to take is left to them"


def test_what_a_load_measured_is_believed_the_next_time(
    setup: ModelCacheSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.machine.ram = 300 + 2 * (WEIGHTS + CACHE)
    for name in ("a", "b", "c"):
        setup.bring(name)
    monkeypatch.setattr("bot.engine.server.model_cache.expected", lambda _: pytest.fail("it was measured"))
    setup.bring("a")
    assert list(setup.cached_models.names) == ["a", "c"]


def test_a_load_that_runs_out_of_memory_is_tried_once_more_alone(setup: ModelCacheSetup) -> None:
    setup.bring("a"), setup.bring("b")
    setup.shortages = 1
    setup.bring("c")
    assert setup.log[4:] == ["load c", "drop a", "drop b", "load c", "host c"]
    setup.shortages = 2
    with pytest.raises(ModelError, match="not enough memory"):
        setup.bring("d")
    assert list(setup.cached_models.names) == []
    setup.shortages, setup.log = 1, []
    with pytest.raises(ModelError):
        setup.bring("e")
    assert setup.log == ["load e"], "nothing was there to be dropped"


def test_one_that_generates_is_never_touched(setup: ModelCacheSetup) -> None:
    setup.machine.ram = 300 + 2 * (WEIGHTS + CACHE)
    busy = setup.bring("a")
    busy.generator.running = 1
    setup.bring("b")
    setup.bring("c")
    assert list(setup.cached_models.names) == ["c", "a"]
    assert setup.cached_models.running == 1
    setup.cached_models.evict_all_but(None)
    assert not busy.generator.closed
    assert list(setup.cached_models.names) == ["a"]


def test_a_machine_that_became_short_gets_back_what_is_only_kept(setup: ModelCacheSetup) -> None:
    setup.bring("a"), setup.bring("b")
    current = setup.bring("c")
    setup.cached_models.evict_under_pressure(current)
    assert list(setup.cached_models.names) == ["c", "b", "a"]
    setup.machine.ram = setup.machine.taken.ram + 3 * CACHE - 600
    setup.cached_models.evict_under_pressure(current)
    assert list(setup.cached_models.names) == ["c", "b"]
    setup.machine.ram = 0
    setup.cached_models.evict_under_pressure(current)
    assert list(setup.cached_models.names) == ["c"]


@pytest.fixture
def card(setup: ModelCacheSetup) -> ModelCacheSetup:
    """A GPU with room for two models."""
    setup.device = "cuda"
    setup.machine.gpu = 2 * (WEIGHTS + CACHE)
    return setup


def test_a_gpu_parks_the_longest_unused_in_ram_and_takes_it_back_with_a_new_batch(card: ModelCacheSetup) -> None:
    for name in ("a", "b", "c"):
        card.bring(name)
    assert list(card.cached_models.names) == ["c", "b"], "what is parked is not there at once"
    assert card.machine.taken == MemoryUsage(300 + WEIGHTS, card.machine.gpu)
    card.log.clear()
    assert card.bring("a").model.device == "cuda"
    assert card.log == ["host a"], "not loaded again"
    assert list(card.cached_models.names) == ["a", "c"]
    assert card.machine.taken == MemoryUsage(300 + WEIGHTS, card.machine.gpu), "b is parked in its place"


def test_what_is_parked_leaves_ram_to_what_was_used_since(card: ModelCacheSetup) -> None:
    card.machine.ram = 300 + WEIGHTS
    for name in ("a", "b", "c", "d"):
        card.bring(name)
    assert [line for line in card.log if "drop" in line] == ["drop a"]
    card.log.clear()
    card.bring("b")
    assert card.log == ["drop c", "host b"], "there was no room in RAM for both while they change places"


def test_what_comes_back_from_ram_needs_none(card: ModelCacheSetup) -> None:
    card.libraries = 700
    card.machine.ram = 300 + 700 + 2 * WEIGHTS
    for name in ("a", "b", "c", "a"):
        card.bring(name)
    assert card.log[-2:] == ["host c", "host a"]


def test_without_ram_or_when_it_cannot_be_moved_it_is_dropped(card: ModelCacheSetup) -> None:
    card.machine.ram = 300 + WEIGHTS - 1
    for name in ("a", "b", "c"):
        card.bring(name)
    assert "drop a" in card.log
    card.machine.ram, card.fixed = 100_000, True
    for name in ("d", "e", "f"):
        card.bring(name)
    assert card.log[-3:] == ["drop d", "load f", "host f"]


def test_nothing_goes_where_there_is_room_or_nothing_is_wanted(card: ModelCacheSetup) -> None:
    hosted, takes = card.bring("a"), MemoryUsage(0, WEIGHTS + CACHE)
    kept = [CachedModel(card.source("a"), (), None, hosted, takes, WEIGHTS, movable=True)]
    assert next_eviction(kept, MemoryUsage(0, 1500), MemoryUsage(0, 1500)) is None
    assert next_eviction(kept, MemoryUsage(0, 0), MemoryUsage(-9, -9)) is None
    step = next_eviction(kept, MemoryUsage(0, 1501), MemoryUsage(WEIGHTS, 1500))
    assert step is not None
    assert step.park
    assert next_eviction(kept, MemoryUsage(99, 0), MemoryUsage(0, 0)) is None, (
        "moved off the card it would take RAM, not give any"
    )


def test_ram_that_took_what_a_kept_model_offloaded_is_got_back(card: ModelCacheSetup) -> None:
    card.machine.gpu = 10 * (WEIGHTS + CACHE)
    card.bring("a", kv_offload_mb=500)
    current = card.bring("b")
    assert list(card.cached_models.names) == ["b", "a"]
    card.machine.take(ram=card.machine.available().ram)
    card.machine.take(ram=600)
    card.cached_models.evict_under_pressure(current)
    assert list(card.cached_models.names) == ["b"]


def test_what_comes_back_from_ram_needs_what_it_may_offload(card: ModelCacheSetup) -> None:
    offloads = {"kv_offload_mb": 500}
    card.machine.ram = 2 * WEIGHTS + 400
    for name in ("a", "b", "c"):
        card.bring(name, **offloads)
    card.log.clear()
    card.bring("a", **offloads)
    assert "drop" in " ".join(card.log)
