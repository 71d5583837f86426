"""Redraws the last lines of the terminal in place, below the permanent output.

Rich's Live moves up by the number of lines that it drew. After the window was made narrower, the terminal has wrapped
these lines into more rows, and Live leaves some of them behind; this class counts the wrapped rows.
"""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleRenderable, RenderableType, RenderHook
from rich.control import Control
from rich.segment import ControlType, Segment, Segments


class LiveLines(RenderHook):
    """Draws `renderable` below the console's output while the context is open; refresh() redraws it."""

    def __init__(self, console: Console, renderable: RenderableType) -> None:
        self._console, self._renderable = console, renderable
        self._width = 0  # window width at the last draw
        self._drawn: list[int] = []  # widths of the drawn lines

    def __enter__(self) -> Self:
        self._console.push_render_hook(self)
        self._console.show_cursor(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._console.pop_render_hook()
        self._console.control(self._erased())
        self._console.show_cursor(True)

    def refresh(self) -> None:
        """Redraw the renderable."""
        self._console.print(Control())

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Rich hook: print `renderables` above the drawn lines and redraw these below."""
        erased = self._erased()
        lines = list(map(_trimmed, self._console.render_lines(self._renderable, pad=False)))
        self._width, self._drawn = self._console.width, [Segment.get_line_length(line) for line in lines]
        return [erased, *renderables, Segments(_joined(lines))]

    def _erased(self) -> Control:
        """Control codes that erase the drawn rows and leave the cursor at the first one."""
        rows, width = len(self._drawn), self._console.width
        if width < self._width and _wraps():
            rows = sum(max(1, -(-each // width)) for each in self._drawn)
        rows, self._drawn = min(rows, self._console.height), []
        if not rows:
            return Control()
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * (rows - 1)
        return Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up)


def _trimmed(line: Sequence[Segment]) -> list[Segment]:
    """Strip trailing blanks without a background color, because only some terminals wrap them."""
    kept = list(line)
    while kept and not (kept[-1].style and kept[-1].style.bgcolor):
        text, style, control = kept.pop()
        if text.rstrip(" "):
            return [*kept, Segment(text.rstrip(" "), style, control)]
    return kept


def _joined(lines: Sequence[Sequence[Segment]]) -> list[Segment]:
    """Join the lines without a final line break, so that the cursor stays on the last line."""
    segments: list[Segment] = []
    for number, line in enumerate(lines):
        segments += [*([Segment.line()] if number else []), *line]
    return segments


def _wraps() -> bool:
    """Whether the terminal wraps lines when the window narrows; xterm and the Linux console cut them."""
    return "TMUX" in os.environ or not ("XTERM_VERSION" in os.environ or os.environ.get("TERM") == "linux")
