"""Builds a console adapter on a terminal emulator whose screen a test can read."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyte
from rich.console import Console

from adapters.console.adapter import KEY, ConsoleAdapter
from adapters.console.screen import RichScreen
from bot.types.messages import FinishReason, Person, Reply
from tests.adapters.console.test_adapter import Said
from tests.support.fakes.scripted_core import USAGE, ScriptedCore

WIDTH, HEIGHT = 100, 12


class Terminal:
    """A terminal of WIDTH x HEIGHT cells with scrollback. It is the file that Rich writes to."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.width = WIDTH
        self._screen = pyte.HistoryScreen(WIDTH, HEIGHT, history=10_000)
        self._stream = pyte.Stream(self._screen)
        self.written = ""

    def write(self, text: str) -> int:
        self.written += text
        self._stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    def narrow(self, width: int) -> None:
        """Makes the window narrower and rewraps its lines as tmux and VTE do."""
        rows = [*self._screen.history.top, *(self._screen.buffer[row] for row in range(self._screen.cursor.y + 1))]
        lines = []
        for row in rows:
            cells = [row[column] for column in range(self.width)]
            while cells and cells[-1].data == " " and cells[-1].bg == "default":
                cells.pop()
            lines.append("".join("\N{NO-BREAK SPACE}" if cell.data == " " else cell.data for cell in cells))
        self.width = width
        self._screen = pyte.HistoryScreen(width, HEIGHT, history=10_000)
        self._stream = pyte.Stream(self._screen)
        self._stream.feed("\r\n".join(lines))

    def flush(self) -> None:
        """Does nothing: write() is unbuffered."""

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """All lines, with the scrollback."""
        gone = ["".join(line[column].data for column in range(self.width)) for line in self._screen.history.top]
        shown = [line.replace("\N{NO-BREAK SPACE}", " ") for line in [*gone, *self._screen.display]]
        return [line.rstrip() for line in shown]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip()


class Chat:
    """A console adapter on a Terminal."""

    def __init__(self, downloads: Path, *lines: str) -> None:
        self.terminal = Terminal()
        file: Any = self.terminal  # implements the part of a file that Rich uses
        self.console = Console(file=file, width=WIDTH, height=HEIGHT, force_terminal=True, color_system="truecolor")
        self.screen = RichScreen(self.console, downloads)
        self.said = Said(lines)
        self.adapter = ConsoleAdapter(self.said, self.screen)
        self.core = ScriptedCore(self.adapter)

    async def until(self, holds: Callable[[Terminal], bool]) -> None:
        """Waits until the terminal shows something; Rich draws on a thread of its own."""
        async with asyncio.timeout(20):
            while not holds(self.terminal):  # noqa: ASYNC110 -- drawn by a thread
                await asyncio.sleep(0.02)

    async def run(self) -> str:
        async with asyncio.timeout(20):
            await self.adapter.run(self.core)
        return self.terminal.text


def reply(committed: str, tail: str = "", *, final: bool = False, **more: object) -> Reply:
    made = Reply("r", "q", KEY, 0, "m", Person("local", "you"), committed, tail, final)
    if final:
        made = replace(made, finish_reason=FinishReason.STOP, usage=USAGE)
    return replace(made, **more)  # type: ignore[arg-type]  # fields of Reply


def pieces(text: str, size: int) -> Sequence[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]
