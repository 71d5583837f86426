"""Tests that memory growth of an idle process is detected, and that the process is replaced only while idle."""

import asyncio
import logging

import pytest

from bot.engine.memory.leak_detector import GPU_SPARE_MB, LeakDetector, MemoryUsage
from tests.support.builders.service import ServiceSetup
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.service"]

RENEWED = "The engine has grown from 400 to 2000 MB of memory with nothing to do."


class Process:
    """Simulates a process's memory, and how much of it can be freed."""

    def __init__(self) -> None:
        self.ram, self.gpu, self.unused = 400, 0, 0
        self.watch = LeakDetector(lambda: MemoryUsage(self.ram + self.unused, self.gpu), self._give_back)

    def _give_back(self) -> None:
        self.unused = 0


def test_growth_beyond_the_bound_is_reported_in_figures() -> None:
    process = Process()
    process.watch.begin(unused_cache_mb=100)
    assert process.watch.limit_mb == 1.5 * (400 + 100) + 512
    process.ram = process.watch.limit_mb
    assert process.watch.grown() == ""
    process.ram += 1
    assert process.watch.grown() == "The engine has grown from 400 to 1263 MB of memory with nothing to do."


def test_what_can_be_given_back_is_no_growth() -> None:
    process = Process()
    process.unused = 5000
    process.watch.begin(unused_cache_mb=0)
    assert process.watch.limit_mb == 1.5 * 400 + 512
    process.unused = 5000
    assert process.watch.grown() == ""
    assert process.unused == 0


def test_growth_on_the_gpu_counts_too() -> None:
    process = Process()
    process.gpu = 20_000
    process.watch.begin(unused_cache_mb=0)
    process.gpu += GPU_SPARE_MB
    assert process.watch.grown() == ""
    process.gpu += 1
    assert process.watch.grown() == "The engine has grown from 20000 to 21025 MB of GPU memory with nothing to do."


def test_a_load_is_no_growth() -> None:
    process = Process()
    assert (process.watch.grown(), process.watch.limit_mb) == ("", 0)
    process.watch.begin(unused_cache_mb=0)
    process.watch.forget()
    process.ram = 100_000
    assert process.watch.grown() == ""
    process.watch.begin(unused_cache_mb=0)
    assert process.watch.grown() == ""


async def test_a_question_while_it_is_replaced_is_reported_and_answered(
    setup: ServiceSetup, team: Team, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await team.asks("ana", "before")).text == "You said: before"
    setup.platform.gates.hold("half small")
    setup.engine.unhealthy_reasons.put_nowait(RENEWED)
    await setup.platform.gates.reached("half small")
    await team.says("ana", "hello")
    message = await team.sees("hello", "restarting the model, 50%")
    await setup.platform.gates.open("half small")
    answer = await team.reply_to("hello")
    assert (answer.parts, answer.text) == ((message,), "You said: hello")
    assert setup.engine.loads == ["small", "small"]
    assert f"{RENEWED} small is loaded again in a new process." in caplog.text
    assert "restarted 1 time" in await team.told("status")


async def test_it_is_never_replaced_under_an_answer(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("hello/1")
    await team.says("ana", "hello")
    await setup.platform.gates.reached("hello/1")
    setup.engine.unhealthy_reasons.put_nowait(RENEWED)
    await setup.platform.until(setup.engine.unhealthy_reasons.empty, "the reason was read")
    await asyncio.sleep(0)
    await setup.platform.gates.open("hello/1")
    assert (await team.reply_to("hello")).text == "You said: hello"
    assert setup.engine.loads == ["small"]


async def test_a_model_that_does_not_come_back_is_tried_by_the_next_question(
    setup: ServiceSetup, team: Team, caplog: pytest.LogCaptureFixture
) -> None:
    setup.engine.deadly["small"] = 1
    with caplog.at_level(logging.ERROR):
        setup.engine.unhealthy_reasons.put_nowait(RENEWED)
        await setup.platform.until(lambda: "The next question tries it again." in caplog.text, "it is given up")
    assert (await team.asks("ana", "hello")).text == "You said: hello"
    assert setup.engine.loads == ["small", "small", "small"]
