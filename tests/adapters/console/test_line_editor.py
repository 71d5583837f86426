"""Tests the prompt: keys go through a real prompt_toolkit, lines come out."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from adapters.console.adapter import ConsoleAdapter
from adapters.console.line_editor import EXIT_HINT, CommandCompleter, TypedLines
from adapters.console.piped import PlainScreen
from tests.adapters.console.test_adapter import talk
from tests.support.fakes.scripted_core import ScriptedCore

ENTER, UP, CTRL_C, CTRL_D, ALT_ENTER = "\r", "\x1b[A", "\x03", "\x04", "\x1b\r"


def pasted(text: str) -> str:
    """The bytes that a terminal sends for a paste."""
    return f"\x1b[200~{text}\x1b[201~"


@dataclass
class Keyboard:
    """Simulated key input, with completions from a service that gets no requests."""

    keys: PipeInput
    core: ScriptedCore

    async def line_after(self, lines: TypedLines, *pressed: str) -> str | None:
        """The line that these keys produce."""
        self.keys.send_text("".join(pressed))
        async with asyncio.timeout(10):
            return await lines.ask(self.core)


@pytest.fixture
def keyboard() -> Iterator[Keyboard]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield Keyboard(keys, talk().core)


async def test_a_line_is_typed(keyboard: Keyboard) -> None:
    assert await keyboard.line_after(TypedLines(None), "Hello there", ENTER) == "Hello there"


async def test_ctrl_d_ends_the_lines(keyboard: Keyboard) -> None:
    assert await keyboard.line_after(TypedLines(None), CTRL_D) is None


async def test_ctrl_c_at_an_empty_prompt_says_how_to_leave(
    keyboard: Keyboard, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await keyboard.line_after(TypedLines(None), CTRL_C, "Hi", ENTER) == "Hi"
    assert capsys.readouterr().out == f"{EXIT_HINT}\n"


async def test_ctrl_c_drops_the_line(keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
    assert await keyboard.line_after(TypedLines(None), "Wrong", CTRL_C, "Right", ENTER) == "Right"
    assert capsys.readouterr().out == ""


async def test_several_lines_are_pasted_as_one_question(keyboard: Keyboard) -> None:
    code = "def f():\n    return 1"
    assert await keyboard.line_after(TypedLines(None), "Explain: ", pasted(code), ENTER) == f"Explain: {code}"


async def test_alt_enter_begins_a_new_line(keyboard: Keyboard) -> None:
    assert await keyboard.line_after(TypedLines(None), "one", ALT_ENTER, "two", ENTER) == "one\ntwo"


async def test_history_survives_and_is_for_its_owner_alone(keyboard: Keyboard, tmp_path: Path) -> None:
    file = tmp_path / "chat" / "history"
    await keyboard.line_after(TypedLines(file), "What was it?", ENTER)
    assert file.stat().st_mode & 0o777 == 0o600
    assert await keyboard.line_after(TypedLines(file), UP, ENTER) == "What was it?"


async def test_forgetting_deletes_the_history(keyboard: Keyboard, tmp_path: Path) -> None:
    file = tmp_path / "history"
    lines = TypedLines(file)
    await keyboard.line_after(lines, "A secret", ENTER)
    lines.clear_history()
    assert await keyboard.line_after(lines, UP, "Nothing before", ENTER) == "Nothing before"
    assert "secret" not in file.read_text()


@pytest.mark.parametrize(
    ("pressed", "sure"), [("y", True), ("YES ", True), ("", False), ("n", False), ("what?", False), (CTRL_C, False)]
)
async def test_a_question_is_answered_by_yes_alone(keyboard: Keyboard, pressed: str, sure: bool) -> None:
    lines = TypedLines(None)
    keyboard.keys.send_text(f"{pressed}{'' if pressed == CTRL_C else ENTER}")
    async with asyncio.timeout(10):
        assert await lines.confirm("Overwrite it?") is sure
    assert await keyboard.line_after(lines, UP, "next", ENTER) == "next", "it is not in the history"


async def test_close_ends_the_prompt(keyboard: Keyboard) -> None:
    adapter = ConsoleAdapter(TypedLines(None), PlainScreen(talk().out, talk().err))
    running = asyncio.create_task(adapter.run(keyboard.core))
    await asyncio.sleep(0.1)
    await adapter.close()
    async with asyncio.timeout(5):
        await running


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/te", ["temperature"]),
        ("/s", ["system", "settings", "stop", "status"]),
        ("/model ", ["smollm2", "phi-4"]),
        ("/model p", ["phi-4"]),
        ("/forget m", ["mine"]),
        ("/export ", ["markdown", "json", "thoughts"]),
        ("/stop ", []),
        ("/nothing ", []),
        ("temperature", []),
    ],
)
def test_commands_and_their_values_are_completed(typed: str, offered: list[str]) -> None:
    completer = CommandCompleter(talk().core)
    found = list(completer.get_completions(Document(typed), CompleteEvent()))
    assert [completion.text for completion in found] == offered
    assert all(typed[: len(typed) + completion.start_position].endswith(("/", " ")) for completion in found)
