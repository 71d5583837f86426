"""Tests engine failures under a whole service (faults 26 to 28): users get their answers in the same message.

One service and one real engine with a tiny model serve the module; `faulty_engine_server` describes how to request
faults.
"""

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from bot.engine.client.process import EngineProcess
from bot.models.device_errors import UNANSWERABLE
from bot.types.messages import FinishReason
from tests.support.builders.faulty_engine_process import DIRECTORY, write_script
from tests.support.builders.service import House, open_house
from tests.support.fakes.engine import ScriptedEngine
from tests.support.fakes.team import Answer, Team
from tests.support.fakes.world import World

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

START_S = 240.0
"""Seconds; a start imports torch, which is slow on a busy machine."""


class Rooms:
    """The service, with a new channel for every question."""

    def __init__(self, house: House, engine: EngineProcess) -> None:
        self.house, self.engine = house, engine
        self._count = 0

    def room(self) -> Team:
        self._count += 1
        return self.house.team.elsewhere(channel=f"room-{self._count}")

    async def whole(self, text: str) -> str:
        """The model's answer to a question without a fault."""
        answer = await self.room().asks("ana", text)
        assert answer.reason is not FinishReason.ERROR, answer.text
        return answer.text

    async def survives(self, text: str) -> Answer:
        """Sends a question that breaks the process; the answer, after its message showed 'restarting the model'."""
        room = self.room()
        await room.says("ana", text)
        message = await room.sees(text, "restarting the model")
        answer = await room.reply_to(text)
        assert answer.parts == (message,)
        assert [post for post in self.house.world.posted if post.reply.key == room.key] == [message]
        return answer

    @property
    def restarts(self) -> int:
        return self.house.service._worker.loader.losses


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rooms(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rooms]:
    root = tmp_path_factory.mktemp("broken")
    catalog = root / "tiny.toml"
    catalog.write_text(f'[[model]]\nname = "tiny"\npath = "{tiny["llama"]}"\nparameters = 100000\n')
    settings: dict[str, Any] = {
        "catalog": catalog,
        "models": "tiny",
        "model": "tiny",
        "device": "cpu",
        "dtype": "float32",
    }
    sampling: dict[str, Any] = {"temperature": 0.0, "max_tokens": 40, "kv_cache_mb": 16, "system_prompt": "Answer."}
    engine = EngineProcess()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("INHOUSE_HTTP", "off")
        patched.setenv(DIRECTORY, str(root))
        patched.setattr("bot.generation.engine_recycler.LEAST_S", 0.0)
        patched.setattr(sys, "executable", str(write_script(root)))
        async with (
            World() as world,
            open_house(root, world, engine=cast(ScriptedEngine, engine), ready=False, **settings, **sampling) as house,
        ):
            world.patience_s = START_S
            await world.connected()
            await world.until(lambda: house.service._worker.loader.loaded is not None, "the model is loaded")
            yield Rooms(house, engine)


@pytest.mark.fault(27)
@pytest.mark.parametrize("how", ["sigkill", "sigsegv"])
async def test_death_at_token_eleven_and_the_same_message_is_finished(rooms: Rooms, how: str) -> None:
    text = f"Where are the keys? {{{how} 11 1}}"
    restarts = rooms.restarts
    answer = await rooms.survives(text)
    assert rooms.restarts == restarts + 1
    assert answer.text == await rooms.whole(text)


@pytest.mark.fault(28)
async def test_what_always_kills_it_gets_two_attempts_and_its_neighbour_an_answer(rooms: Rooms) -> None:
    poison, neighbour = "Who wrote this? {sigkill 3 99}", "And when?"
    restarts, bystander = rooms.restarts, rooms.room()
    expected = await rooms.whole(neighbour)
    await bystander.says("ben", neighbour)
    answer = await rooms.survives(poison)
    assert answer.reason is FinishReason.ERROR
    assert "ended 2 times while it wrote this answer" in answer.text
    assert (await bystander.reply_to(neighbour)).text == expected
    assert rooms.restarts == restarts + 2


@pytest.mark.fault(26)
async def test_a_broken_device_costs_a_restart_and_no_answer(rooms: Rooms) -> None:
    text = "What is the capital of Norway? {assert 5 1}"
    restarts = rooms.restarts
    answer = await rooms.survives(text)
    assert rooms.restarts == restarts + 1
    assert answer.text == await rooms.whole(text)


@pytest.mark.fault(26)
@pytest.mark.parametrize("step", [1, 7], ids=["prefill", "decode"])
async def test_out_of_memory_once_costs_neither_a_restart_nor_an_answer(rooms: Rooms, step: int) -> None:
    text = f"What is the capital of Japan? {{oom {step} 1}}"
    process = rooms.engine.pid
    said = await rooms.whole(text)
    assert said == await rooms.whole(text)
    assert rooms.engine.pid == process


@pytest.mark.fault(26)
async def test_out_of_memory_twice_is_a_clear_error_and_the_next_request_is_fine(rooms: Rooms) -> None:
    process = rooms.engine.pid
    answer = await rooms.room().asks("ana", "Where is the dog? {oom 1 2}")
    assert answer.text == f"⚠️ {UNANSWERABLE}"
    assert await rooms.whole("Where is the fox?")
    assert rooms.engine.pid == process


async def test_a_process_that_dies_with_nothing_to_do_is_replaced_before_anybody_asks(rooms: Rooms) -> None:
    restarts, first = rooms.restarts, rooms.engine.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    worker = rooms.house.service._worker
    await rooms.house.world.until(lambda: rooms.restarts > restarts and worker.loader.loaded is not None, "it is back")
    assert rooms.engine.pid not in (None, first)
    assert await rooms.whole("And you?")


async def test_a_process_that_leaks_is_replaced_once_nobody_is_being_answered(
    rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    text = "Who are you? {leak 2 1}"
    restarts, first = rooms.restarts, rooms.engine.pid
    assert (await rooms.engine.stats()).memory_limit_mb > (await rooms.engine.stats()).resident_mb
    with caplog.at_level(logging.ERROR):
        said = await rooms.whole(text)
        assert rooms.engine.pid == first, "it was replaced under an answer"
        worker = rooms.house.service._worker
        await rooms.house.world.until(
            lambda: rooms.restarts > restarts and worker.loader.loaded is not None, "it is back"
        )
    assert "with nothing to do. tiny is loaded again in a new process." in caplog.text
    assert rooms.engine.pid not in (None, first)
    stats = await rooms.engine.stats()
    assert 0 < stats.resident_mb < stats.memory_limit_mb
    assert await rooms.whole(text) == said
