"""Tests the limits on an engine's process that sends no hello, or output without a line end."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.engine.client import child_process
from bot.engine.client.child_process import LINE_BYTES, ChildProcess
from bot.engine.client.protocol import Load
from bot.types.engine import ModelSource
from bot.types.errors import EngineDied

pytestmark = pytest.mark.asyncio

CHILD = f"""#!{sys.executable}
import os, socket, sys
from bot.engine.client import protocol
from bot.engine.client.protocol import Hello

def connect():
    return socket.create_connection(("127.0.0.1", int(os.environ[protocol.PORT_VARIABLE])))

def hello(connection):
    connection.sendall(protocol.frame(Hello(os.environ[protocol.SECRET_VARIABLE], protocol.VERSION)))

BODY
"""

Scripted = Callable[[str], None]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scripted:
    """Makes the engine's process run a script."""

    def use(body: str) -> None:
        file = tmp_path / "child"
        file.write_text(CHILD.replace("BODY", body))
        file.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(file))

    return use


@pytest.mark.parametrize(
    "said",
    ["", 'connection.sendall(b"\\0\\0\\0\\x09half")', 'connection.sendall(b"\\0\\0")'],
    ids=["no", "half", "header"],
)
async def test_a_child_without_a_hello_is_given_up(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setattr(child_process, "HELLO_SECONDS", 1.0)
    scripted(f"connection = connect()\n{said}\nwhile True: connection.recv(1)")
    with pytest.raises(EngineDied, match="before it was ready"):
        await asyncio.wait_for(ChildProcess.open(), 30)


async def test_a_connection_without_a_hello_is_closed_when_the_child_has_said_its_own(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inhouse.engine")
    scripted(
        "stranger, own = connect(), connect()\n"
        "stranger.sendall(b'\\0')\n"
        "hello(own)\n"
        "print('the stranger got', stranger.recv(1), flush=True)"
    )
    child = await ChildProcess.open()
    assert await asyncio.wait_for(child.receive(), 30) is None, "the child ends when its other connection is closed"
    await child.close()
    assert "the stranger got b''" in caplog.messages


async def test_a_child_that_stopped_reading_is_closed_in_time(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "GRACE_SECONDS", 0.5)
    scripted("import time\nconnection = connect()\nhello(connection)\ntime.sleep(1000)")
    child = await ChildProcess.open()
    sending = asyncio.create_task(child.send(Load(1, ModelSource("m", 30_000_000 * "x"))))
    await asyncio.sleep(0)  # the message is longer than all buffers, so it stays unsent
    ended = await asyncio.wait_for(child.close(), 30)
    assert (ended.description, ended.signal_from_outside) == ("by signal 9", "")
    with contextlib.suppress(EngineDied):
        await sending


async def test_output_without_a_line_end_is_logged_in_pieces(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inhouse.engine")
    size = 50 * LINE_BYTES
    scripted(f"hello(connect())\nsys.stdout.write('one\\rtwo\\n' + {size} * 'x')\nsys.stdout.flush()")
    child = await ChildProcess.open()
    assert await child.receive() is None
    await child.close()
    pieces = [message for message in caplog.messages if set(message) == {"x"}]
    assert "".join(pieces) == size * "x"
    assert max(map(len, pieces)) <= 2 * LINE_BYTES
    assert caplog.messages[:2] == ["one", "two"]
