"""Tests keys pressed while an answer is written: Ctrl-C stops it, other keys go to the next prompt."""

import asyncio
import os
import pty
import signal
import sys
import termios
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_input
from prompt_toolkit.input.typeahead import get_typeahead
from prompt_toolkit.output import DummyOutput

from adapters.console.line_editor import TypedLines
from bot.types.messages import FinishReason
from tests.support.builders.console_window import Chat


async def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    chat = Chat(tmp_path, "one", "two")
    chat.core.says("Endless", until_stopped=True, reason=FinishReason.ABORT)
    chat.core.says("Second.", usage=None)
    before = signal.getsignal(signal.SIGINT)
    running = asyncio.create_task(chat.run())
    await chat.core.writing.wait()
    os.kill(os.getpid(), signal.SIGINT)
    shown = await running
    assert "first after 0.3 s; stopped\n\nSecond." in shown
    assert signal.getsignal(signal.SIGINT) is before


async def test_a_second_ctrl_c_leaves(tmp_path: Path) -> None:
    chat = Chat(tmp_path, "one", "two")
    chat.core.says("Endless", until_stopped=True)
    chat.core.deaf = True
    running = asyncio.create_task(chat.run())
    await chat.core.writing.wait()
    os.kill(os.getpid(), signal.SIGINT)
    async with asyncio.timeout(10):
        while "stop" not in [getattr(event, "name", "") for event in chat.core.events]:  # noqa: ASYNC110 -- no event
            await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
    await running


async def test_ctrl_c_is_a_key_that_stops_the_answer_and_other_keys_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master, slave = pty.openpty()
    chat = Chat(tmp_path, "one", "two")
    chat.core.says("Endless", until_stopped=True, reason=FinishReason.ABORT)
    chat.core.says("Second.", usage=None)
    with os.fdopen(master, "rb"), os.fdopen(slave, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(slave)
        running = asyncio.create_task(chat.run())
        await chat.core.writing.wait()
        assert termios.tcgetattr(slave)[6][termios.VINTR] == b"\0", "no signal, which would reach make as well"
        os.write(master, b"Hi\x03!\r")
        shown = await running
        kept = "".join(key.data for key in get_typeahead(create_input(terminal)))
        assert termios.tcgetattr(slave) == before
    assert "; stopped\n\nSecond." in shown
    assert kept == "Hi!\n"


async def test_keys_are_not_echoed_into_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with os.fdopen(master, "rb"), os.fdopen(slave, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        echo = [bool(termios.tcgetattr(slave)[3] & termios.ECHO)]
        with Chat(tmp_path).screen.conversation():
            echo.append(bool(termios.tcgetattr(slave)[3] & termios.ECHO))
        echo.append(bool(termios.tcgetattr(slave)[3] & termios.ECHO))
    assert echo == [True, False, True]


@pytest.mark.parametrize("typed", [b"\x04", b"Wrong\x03\x04"])
async def test_keys_between_an_answer_and_the_next_prompt_are_kept(
    typed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In line mode the terminal turns such a Ctrl-D into a NUL, and makes a signal of Ctrl-C."""
    master, slave = pty.openpty()
    chat = Chat(tmp_path)
    with os.fdopen(master, "rb"), os.fdopen(slave, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        with (
            chat.screen.conversation(),
            create_app_session(input=create_input(terminal), output=DummyOutput()),
        ):
            with chat.screen.answering(lambda: None):
                pass
            os.write(master, typed)
            await asyncio.sleep(0.05)  # until the kernel has passed it through the terminal's modes
            async with asyncio.timeout(10):
                assert await TypedLines(None).ask(chat.core) is None
