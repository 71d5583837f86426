"""Tests the engine's process with a scripted child: what EngineDied says about its cause, and thoughts beside text.

`external` blames no request.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from bot.engine.client.process import EngineProcess
from bot.types.engine import EngineRequest
from bot.types.errors import EngineDied
from tests.support.builders.engine_requests import GREEDY, ask, load, prompt

pytestmark = pytest.mark.asyncio

CHILD = f"""#!{sys.executable}
import os, socket
from bot.engine.client import protocol
from bot.engine.client.protocol import Generate, Hello, Load, Loaded, StepOutput, Text
from bot.types.engine import LoadedModel

connection = socket.create_connection(("127.0.0.1", int(os.environ[protocol.PORT_VARIABLE])))

def send(message):
    connection.sendall(protocol.frame(message))

send(Hello(os.environ[protocol.SECRET_VARIABLE], protocol.VERSION))
while (message := protocol.receive(connection)) is not None:
    match message:
        case Load(number):
            send(Loaded(number, LoadedModel("m", "cpu", "float32", 512, True, 16, 1, 1, 512, 0.1)))
        case Generate(stream, request):
            send(StepOutput([Text(stream, "Once", reasoning="They ask for a tale.")], []))
            if request.prompt.turns[-1].text == "exit":
                os._exit(3)
"""
"""An engine's process without torch: its answers begin and never end."""


class Clock:
    """A clock of suspends that a test sets."""

    def __init__(self) -> None:
        self.suspended_s = 100.0

    def __call__(self) -> float:
        return self.suspended_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: Clock) -> AsyncIterator[EngineProcess]:
    child = tmp_path / "child"
    child.write_text(CHILD)
    child.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(child))
    engine = EngineProcess(hung_s=2.0, suspended=clock)
    await load(engine, tmp_path)
    yield engine
    await engine.close()


async def dies(engine: EngineProcess, sent: signal.Signals | None, question: str = "hello") -> EngineDied:
    """The error of an answer whose process gets a signal after its first text."""

    async def send(count: int) -> None:
        if sent is not None:
            assert engine.pid is not None
            os.kill(engine.pid, sent)

    with pytest.raises(EngineDied) as death:
        await ask(engine, "1", question, at_delta=send)
    return death.value


async def test_thoughts_come_beside_the_text(engine: EngineProcess) -> None:
    request = EngineRequest("1", prompt("hello"), GREEDY)
    async with asyncio.timeout(20), aclosing(engine.stream(request)) as deltas:
        first = await anext(deltas)
    assert (first.text, first.reasoning) == ("Once", "They ask for a tale.")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM], ids=lambda sent: sent.name)
async def test_a_signal_from_outside_blames_no_request(engine: EngineProcess, sent: signal.Signals) -> None:
    died = await dies(engine, sent)
    assert died.external
    assert sent.name in str(died)


@pytest.mark.parametrize(
    "sent", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE], ids=lambda sent: sent.name
)
async def test_a_crash_is_the_engines_own(engine: EngineProcess, sent: signal.Signals) -> None:
    assert not (await dies(engine, sent)).external


async def test_an_exit_is_the_engines_own(engine: EngineProcess) -> None:
    assert not (await dies(engine, None, "exit")).external


async def test_a_hang_that_the_heartbeat_ends_is_the_engines_own(engine: EngineProcess) -> None:
    # The process is stopped, so it ends by the SIGKILL of EngineProcess itself, after two seconds without a message.
    assert not (await dies(engine, signal.SIGSTOP)).external


async def test_a_crash_after_a_suspend_blames_no_request(engine: EngineProcess, clock: Clock, tmp_path: Path) -> None:
    clock.suspended_s += 3600
    assert (await dies(engine, signal.SIGSEGV)).external
    assert engine.pid is None
    await load(engine, tmp_path)


async def test_all_calls_and_the_report_know_the_cause(engine: EngineProcess) -> None:
    unhealthy = asyncio.create_task(engine.wait_until_unhealthy())
    other = asyncio.create_task(ask(engine, "2", "hello"))
    died = await dies(engine, signal.SIGKILL)
    with pytest.raises(EngineDied) as of_other:
        await other
    assert of_other.value.external
    assert await unhealthy == str(died)
    with pytest.raises(EngineDied) as not_running:
        await ask(engine, "3", "hello")
    assert not_running.value.external, "it never reached the engine"


async def test_a_new_process_can_be_loaded_as_soon_as_the_death_is_known(engine: EngineProcess, tmp_path: Path) -> None:
    first = engine.pid
    await dies(engine, signal.SIGKILL)
    await load(engine, tmp_path)
    assert engine.pid not in (None, first)
