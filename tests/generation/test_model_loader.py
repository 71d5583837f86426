"""Tests the estimated duration of a model switch that waiting users see."""

import threading
from typing import cast

import pytest

from bot.generation.model_loader import Loader
from bot.observability.metrics import Metrics
from bot.types.engine import Engine, EngineStats, LoadedModel, ModelSource
from bot.types.errors import ModelError
from tests.support.builders.service import ServiceSetup
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.service"]


class Slow:
    """An engine whose loads take a fixed time on a clock that a test sets."""

    def __init__(self) -> None:
        self.now, self.takes = 0.0, 0.0
        self.kept: tuple[str, ...] = ()

    async def load(self, source: ModelSource, progress: object) -> LoadedModel:
        self.now += self.takes
        self.kept = (source.name, *(name for name in self.kept if name != source.name))
        return LoadedModel(source.name, "cpu", "float32", 512, True, 16, 1, 1, 1, 0.0, resident=self.kept)


async def test_a_quick_return_is_expected_and_is_not_what_a_load_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Slow()
    monkeypatch.setattr("bot.generation.model_loader.time.monotonic", lambda: engine.now)
    loader = Loader(cast(Engine, engine), lambda name: ModelSource(name, ""), Metrics())
    assert loader.seconds("a") == 0, "nothing is known of it"
    engine.takes = 30.0
    await loader.load("a")
    engine.takes = 40.0
    await loader.load("b")
    assert [loader.seconds(name) for name in "ab"] == [0, 0]
    engine.takes = 0.0
    await loader.load("a")
    loader.mark_lost("The engine died")
    assert [loader.seconds(name) for name in "ab"] == [30, 40]


async def test_the_status_names_what_can_be_switched_to_at_once(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "kept in memory" not in await team.told("status")

    async def stats() -> EngineStats:
        return EngineStats("small", 0, 0.0, 1, 1, 512, 0, 0, 900, ("small", "large", "odd"))

    monkeypatch.setattr(setup.engine, "stats", stats)
    assert "- also in memory: large, odd\n" in await team.told("status")


@pytest.mark.fault(55)
async def test_a_disk_that_does_not_answer_is_reported_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.generation.model_loader.LOCATE_S", 0.2)
    answers = threading.Event()

    def locate(name: str) -> ModelSource:
        if name == "far":
            answers.wait()
        return ModelSource(name, "")

    loader = Loader(cast(Engine, Slow()), locate, Metrics())
    with pytest.raises(ModelError, match=r"The files of far could not be looked up within 0 s; .* another model\."):
        await loader.load("far")
    await loader.load("near")
    assert loader.name == "near"
    answers.set()
