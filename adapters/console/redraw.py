"""The end of the terminal's text that is drawn again and again, below everything that is printed for good.

Rich's Live does the same, but goes up by the number of lines that it drew: where the window was made narrower, the
terminal has wrapped them into more rows, and the rows that are left would repeat the text.
"""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleRenderable, RenderableType, RenderHook
from rich.control import Control
from rich.segment import ControlType, Segment, Segments


class Redrawn(RenderHook):
    """Draws `renderable` below what the console prints, from `with` to its end; refresh() draws it again."""

    def __init__(self, console: Console, renderable: RenderableType) -> None:
        self._console, self._renderable = console, renderable
        self._width = 0  # of the window when it was drawn
        self._drawn: list[int] = []  # widths of the lines

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
        """Draw it as it is now."""
        self._console.print(Control())

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """What Rich prints instead of `renderables`: they take the place of what is drawn, which comes below them."""
        erased = self._erased()
        lines = list(map(_trimmed, self._console.render_lines(self._renderable, pad=False)))
        self._width, self._drawn = self._console.width, [Segment.get_line_length(line) for line in lines]
        return [erased, *renderables, Segments(_joined(lines))]

    def _erased(self) -> Control:
        """Deletes the rows that the drawn lines take now, and leaves the cursor at the first one."""
        rows, width = len(self._drawn), self._console.width
        if width < self._width and _wraps():
            rows = sum(max(1, -(-each // width)) for each in self._drawn)
        rows, self._drawn = min(rows, self._console.height), []
        if not rows:
            return Control()
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * (rows - 1)
        return Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up)


def _trimmed(line: Sequence[Segment]) -> list[Segment]:
    """The line without blanks at its end, which only some terminals wrap; those with a background stay."""
    kept = list(line)
    while kept and not (kept[-1].style and kept[-1].style.bgcolor):
        text, style, control = kept.pop()
        if text.rstrip(" "):
            return [*kept, Segment(text.rstrip(" "), style, control)]
    return kept


def _joined(lines: Sequence[Sequence[Segment]]) -> list[Segment]:
    """The lines without a line break at the end, where the cursor stays."""
    segments: list[Segment] = []
    for number, line in enumerate(lines):
        segments += [*([Segment.line()] if number else []), *line]
    return segments


def _wraps() -> bool:
    """Whether the terminal wraps lines that a narrower window does not hold; xterm and Linux's console cut them."""
    return "TMUX" in os.environ or not ("XTERM_VERSION" in os.environ or os.environ.get("TERM") == "linux")
