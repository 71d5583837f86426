"""Renders Markdown in a terminal, block by block, so that an answer looks the same however its text arrived."""

from itertools import pairwise
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.segment import Segment
from rich.text import Text

_PARSER = MarkdownIt().enable("strikethrough").enable("table")  # as Rich does
_PARSER.core.ruler.enableOnly(["normalize", "block"])  # what is inside of a block is Rich's business
_LONGEST_BLOCK = 20_000
"""Characters; a longer block is shown as it is written, since it is rendered anew several times a second."""


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}  # all of them at the left: an answer is no title page


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "heading_open": _Heading}


def block_starts(text: str) -> list[int]:
    """The offsets at which the top-level blocks of `text` begin."""
    lines = text.split("\n")
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line) + 1)
    return [
        offsets[token.map[0]] for token in _PARSER.parse(text) if token.level == 0 and token.nesting >= 0 and token.map
    ]


def settled(text: str) -> int:
    """How many characters of a growing text belong to blocks that can no longer change.

    The last block can (a list gets more items, a paragraph becomes a heading), and so can the last, incomplete line.
    """
    starts = block_starts(text[: text.rfind("\n") + 1])
    return starts[-1] if starts else 0


class Blocks:
    """`text` to print. gap: an empty line goes before it. last: only so many of its lines, those at the end."""

    def __init__(self, text: str, *, gap: bool = False, last: int | None = None) -> None:
        self._text, self._gap, self._last = text, gap, last

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines: list[list[Segment]] = []
        for start, end in pairwise([*block_starts(self._text), len(self._text)]):
            block = _rendered(self._text[start:end], console, options)
            if block and (lines or self._gap):
                lines.append([])
            lines += block
        for line in lines[-self._last :] if self._last else lines:
            yield from line
            yield Segment.line()


def _rendered(block: str, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
    """The lines of one block without the empty ones around it: Rich gives each kind of block another number of them."""
    # hyperlinks: where a link leads is shown, not hidden
    shown = _Markdown(block, hyperlinks=False) if len(block) <= _LONGEST_BLOCK else Text(block)
    lines = console.render_lines(shown, options, pad=False)
    full = [number for number, line in enumerate(lines) if "".join(segment.text for segment in line).strip()]
    return lines[full[0] : full[-1] + 1] if full else []
