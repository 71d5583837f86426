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
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.fakes.team import Answer, Team

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

START_S = 240.0
"""Seconds; a start imports torch, which is slow on a busy machine."""


class EngineSetup:
    """The service, with a new channel for every question."""

    def __init__(self, setup: ServiceSetup, engine: EngineProcess) -> None:
        self.setup, self.engine = setup, engine
        self._count = 0

    def room(self) -> Team:
        self._count += 1
        return self.setup.team.elsewhere(channel=f"room-{self._count}")

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
        assert [post for post in self.setup.platform.posted if post.reply.key == room.key] == [message]
        return answer

    @property
    def restarts(self) -> int:
        return self.setup.loader.losses


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineSetup]:
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
        patched.setattr("bot.generation.worker.RESTART_S", 0.0)
        patched.setattr(sys, "executable", str(write_script(root)))
        async with (
            ScriptedPlatform() as platform,
            run_service(
                root, platform, engine=cast(ScriptedEngine, engine), ready=False, **settings, **sampling
            ) as setup,
        ):
            platform.patience_s = START_S
            await platform.connected()
            await platform.until(lambda: setup.loader.loaded is not None, "the model is loaded")
            yield EngineSetup(setup, engine)


@pytest.mark.fault(27)
@pytest.mark.parametrize("how", ["sigkill", "sigsegv"])
async def test_death_at_token_eleven_and_the_same_message_is_finished(running: EngineSetup, how: str) -> None:
    text = f"Where are the keys? {{{how} 11 1}}"
    restarts = running.restarts
    answer = await running.survives(text)
    assert running.restarts == restarts + 1
    assert answer.text == await running.whole(text)


@pytest.mark.fault(28)
async def test_what_always_kills_it_gets_an_error_and_its_neighbour_an_answer(running: EngineSetup) -> None:
    poison, neighbour = "Who wrote this? {sigsegv 3 99}", "And when?"
    restarts, bystander = running.restarts, running.room()
    expected = await running.whole(neighbour)
    await bystander.says("ben", neighbour)
    answer = await running.survives(poison)
    assert answer.reason is FinishReason.ERROR
    assert "times while it wrote this answer" in answer.text
    assert (await bystander.reply_to(neighbour)).text == expected
    assert running.restarts - restarts in (2, 3), "3 if the neighbour was still being answered at the second death"


@pytest.mark.fault(26)
async def test_a_broken_device_costs_a_restart_and_no_answer(running: EngineSetup) -> None:
    text = "What is the capital of Norway? {assert 5 1}"
    restarts = running.restarts
    answer = await running.survives(text)
    assert running.restarts == restarts + 1
    assert answer.text == await running.whole(text)


@pytest.mark.fault(26)
@pytest.mark.parametrize("step", [1, 7], ids=["prefill", "decode"])
async def test_out_of_memory_once_costs_neither_a_restart_nor_an_answer(running: EngineSetup, step: int) -> None:
    text = f"What is the capital of Japan? {{oom {step} 1}}"
    process = running.engine.pid
    said = await running.whole(text)
    assert said == await running.whole(text)
    assert running.engine.pid == process


@pytest.mark.fault(26)
async def test_out_of_memory_twice_is_a_clear_error_and_the_next_request_is_fine(running: EngineSetup) -> None:
    process = running.engine.pid
    answer = await running.room().asks("ana", "Where is the dog? {oom 1 2}")
    assert answer.text == f"⚠️ {UNANSWERABLE}"
    assert await running.whole("Where is the fox?")
    assert running.engine.pid == process


async def test_an_idle_process_that_dies_is_replaced_before_the_next_question(running: EngineSetup) -> None:
    restarts, first = running.restarts, running.engine.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await running.setup.platform.until(
        lambda: running.restarts > restarts and running.setup.loader.loaded is not None, "it is back"
    )
    assert running.engine.pid not in (None, first)
    assert await running.whole("And you?")


async def test_a_process_that_leaks_is_replaced_once_it_is_idle(
    running: EngineSetup, caplog: pytest.LogCaptureFixture
) -> None:
    text = "Who are you? {leak 2 1}"
    restarts, first = running.restarts, running.engine.pid
    assert (await running.engine.stats()).memory_limit_mb > (await running.engine.stats()).resident_mb
    with caplog.at_level(logging.ERROR):
        said = await running.whole(text)
        assert running.engine.pid == first, "it was replaced under an answer"
        await running.setup.platform.until(
            lambda: running.restarts > restarts and running.setup.loader.loaded is not None, "it is back"
        )
    assert "with nothing to do. tiny is loaded again in a new process." in caplog.text
    assert running.engine.pid not in (None, first)
    stats = await running.engine.stats()
    assert 0 < stats.resident_mb < stats.memory_limit_mb
    assert await running.whole(text) == said
