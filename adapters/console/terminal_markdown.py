"""Renders Markdown in a terminal block by block, so that the result does not depend on how the text was streamed."""

from itertools import pairwise
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.segment import Segment
from rich.text import Text

_PARSER = MarkdownIt().enable("strikethrough").enable("table")  # same as Rich
_PARSER.core.ruler.enableOnly(["normalize", "block"])  # Rich parses the inline content
_LONGEST_BLOCK = 20_000
"""Characters; a longer block is shown as plain text, because it is rendered several times a second."""


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}  # left-align all headings


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "heading_open": _Heading}


def block_starts(text: str) -> list[int]:
    """Offsets of the top-level blocks of `text`."""
    lines = text.split("\n")
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line) + 1)
    return [
        offsets[token.map[0]] for token in _PARSER.parse(text) if token.level == 0 and token.nesting >= 0 and token.map
    ]


def stable_prefix(text: str) -> int:
    """Number of leading characters of a growing text that belong to complete blocks.

    The last block may still change (more list items, a paragraph that becomes a heading), as may an incomplete line.
    """
    starts = block_starts(text[: text.rfind("\n") + 1])
    return starts[-1] if starts else 0


class Blocks:
    """Renders `text`. gap: print an empty line first. last: print only the last `last` lines."""

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
    """Render one block without the empty lines around it, whose number differs by kind of block in Rich."""
    # hyperlinks=False shows the target of a link as text.
    shown = _Markdown(block, hyperlinks=False) if len(block) <= _LONGEST_BLOCK else Text(block)
    lines = console.render_lines(shown, options, pad=False)
    full = [number for number, line in enumerate(lines) if "".join(segment.text for segment in line).strip()]
    return lines[full[0] : full[-1] + 1] if full else []
