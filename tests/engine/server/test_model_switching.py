"""Tests switching models in a real engine: an earlier model returns at once, with its cached prefixes."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from bot.engine.client.process import EngineProcess
from bot.engine.client.protocol import Load, Loaded
from bot.engine.server.runner import Channel, Runner
from bot.types.engine import LoadedModel, ModelSource
from bot.types.errors import ModelError
from tests.support.builders.engine_requests import GREEDY, ask, load
from tests.support.builders.faulty_engine_process import DIRECTORY, write_script

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

WHERE = "Where are the keys? " * 12
LONG = replace(GREEDY, max_tokens=200, repetition_penalty=1.1)


@pytest.mark.parametrize("batching", [True, False], ids=["batching", "sequential"])
async def test_a_model_comes_back_as_it_was(engine: EngineProcess, tiny: dict[str, Path], batching: bool) -> None:
    await load(engine, tiny["llama"], batching=batching)
    before = await ask(engine, "before", WHERE)
    await load(engine, tiny["phi"], batching=batching)
    other = await ask(engine, "other", WHERE)
    limit = (await engine.stats()).memory_limit_mb
    again = await load(engine, tiny["llama"], batching=batching)
    assert (again.name, again.resident[:2]) == ("llama", ("llama", "phi"))
    assert again.load_s < 0.5
    after = await ask(engine, "after", WHERE)
    assert after.text == before.text != other.text
    if batching:
        assert after.usage.cached_tokens > 0, "what it had read is still there"
    stats = await engine.stats()
    assert stats.model == "llama"
    assert stats.memory_limit_mb == limit >= stats.resident_mb, "what is kept is no growth"


async def test_a_load_waits_until_an_aborted_answer_has_ended(engine: EngineProcess, tiny: dict[str, Path]) -> None:
    await load(engine, tiny["llama"])
    whole = await ask(engine, "whole", "Who wrote this?", LONG)

    loading = await _left_at_three(engine, tiny["phi"])
    assert (await loading).name == "phi"
    assert (await engine.stats()).running == 0
    assert (await ask(engine, "phi", "Who wrote this?")).text
    await load(engine, tiny["llama"])
    assert (await ask(engine, "again", "Who wrote this?", LONG)).text == whole.text


async def _left_at_three(engine: EngineProcess, path: Path) -> "asyncio.Task[LoadedModel]":
    """Abandons an answer at its third delta, and loads another model at once."""

    async def leave(count: int) -> None:
        if count == 3:
            raise LookupError

    with pytest.raises(LookupError):
        await ask(engine, "left", "Who wrote this?", LONG, leave)
    return asyncio.create_task(load(engine, path))


async def test_after_a_load_that_failed_the_old_model_is_still_there(
    engine: EngineProcess, tiny: dict[str, Path], tmp_path: Path
) -> None:
    await load(engine, tiny["llama"])
    with pytest.raises(ModelError):
        await load(engine, tmp_path / "nothing here")
    stats = await engine.stats()
    assert (stats.model, stats.resident[0]) == ("", "llama")
    assert (await load(engine, tiny["llama"])).load_s < 1
    assert (await engine.stats()).memory_limit_mb > 0


async def test_an_answer_that_runs_out_of_memory_costs_the_models_that_are_only_kept(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(write_script(tmp_path)))
    engine = EngineProcess()
    try:
        await load(engine, tiny["phi"], kv_cache_mb=16)
        assert (await load(engine, tiny["llama"], kv_cache_mb=16)).resident == ("llama", "phi")
        struck = await ask(engine, "struck", "Who wrote this? {oom 5 1}")
        assert (tmp_path / "oom 5 1").stat().st_size == 1
        assert (await engine.stats()).resident == ("llama",)
        assert (await ask(engine, "again", "Who wrote this? {oom 5 1}")).text == struck.text
    finally:
        await engine.close()


class Ended(BaseException):
    """Ends the runner's loop."""


class SlowHost:
    """A host with one pending answer, which ends after `running` was read."""

    def __init__(self, post: Callable[[Callable[[], None]], None], emit: object, on_step: object) -> None:
        self._post, self._owed = post, 1

    @property
    def running(self) -> int:
        if self._owed:
            self._post(self._pay)
        return self._owed

    def load(self, source: ModelSource, progress: object) -> LoadedModel:
        assert not self._owed, "a model is loaded while an answer is owed"
        self._post(self._end)
        return LoadedModel(source.name, "cpu", "float32", 512, True, 16, 1, 1, 1, 0.0)

    def _pay(self) -> None:
        self._owed = 0

    def _end(self) -> None:
        raise Ended


async def test_the_engines_process_loads_nothing_while_an_answer_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sent(list[Any]):
        send = list.append

    monkeypatch.setattr("bot.engine.server.engine_server.EngineServer", SlowHost)
    monkeypatch.setattr("bot.engine.server.runner.Heartbeat.start", lambda _: None)
    sent = Sent()
    runner = Runner(cast(Channel, sent))
    runner.handle(Load(7, ModelSource("a", "")))
    with pytest.raises(Ended):
        runner.run()
    assert [(type(message), message.number) for message in sent] == [(Loaded, 7)]
