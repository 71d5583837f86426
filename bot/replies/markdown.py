"""Renders a model's Markdown in a platform's dialect; only addresses that users wrote become links. Pure functions.

Tables become code blocks on platforms without tables; tilde fences become backtick fences where only these work. Where
<...> marks mentions (Slack), < and > are escaped, in code too. Other code is unchanged. Time is linear in the text: the
expressions are possessive, and a table that would grow too large keeps its layout.
"""

import re
from collections.abc import Set
from dataclasses import dataclass

from bot.platforms.adapter import Dialect
from bot.platforms.markdown_scanner import CodeSpans
from bot.platforms.splitter import fence_after, without_bidi_controls
from bot.replies.links import stable_prefix as stable_in_line
from bot.replies.links import with_links

_RULE = re.compile(r"[ \t]*+(?:\|[ \t]*+)?+:?+-++:?+[ \t]*+(?:\|[ \t]*+:?+-++:?+[ \t]*+)*+(?:\|[ \t]*+)?+")
_PERHAPS_RULE = re.compile(r"[ \t|:-]*+")
_TILDES = re.compile(r"^([ \t>]*+)(~++)")
_QUOTE = re.compile(r"(?:[ \t]*+(?:>|[-*+][ \t]|\d{1,3}[.)][ \t]))*+")
_SPECIAL = re.compile(
    r"""
      \\(?P<escaped> [^\w\s] )
    | (?P<ticks> `++ )
    | \]\(< (?P<target> https?://[^\s<>|`]++ ) >
    | (?P<url> https?://[^\s<>|`]++ ) (?P<closing> > )?
    | [&<>]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_BETWEEN_CELLS = re.compile(r"(?<!\\)\|")
_LARGEST_TABLE = 20_000
"""Maximum characters of a table with aligned columns; one wide cell widens every row."""


@dataclass(slots=True)
class _Block:
    """Consecutive lines of one kind: 'code' with its fences, 'table' or 'text'. `start`: offset in the text."""

    kind: str
    start: int
    lines: list[str]


def render(text: str, dialect: Dialect, links: Set[str]) -> str:
    """Render `text` in `dialect`; only addresses in `links` become links."""
    shown: list[str] = []
    for block in _blocks(without_bidi_controls(text), dialect):
        if block.kind == "code":
            shown += _code(block.lines, dialect)
        elif block.kind == "table":
            shown += _boxed(block.lines)
        else:
            lines = [with_links(line, links) for line in block.lines]
            shown += map(_escaped, lines) if dialect is Dialect.SLACK else lines
    return "\n".join(shown)


def stable_prefix(text: str, dialect: Dialect) -> int:
    """Number of leading characters whose rendering later text cannot change. `text` must have no bidi controls."""
    *before, last = _blocks(text, dialect)
    if before and before[-1].kind == "table" and len(last.lines) == 1:
        return before[-1].start  # the line may become another row and widen the columns
    if last.kind == "table" or (last.kind == "code" and len(last.lines) == 1):
        return last.start
    line = last.lines[-1]
    at_line = len(text) - len(line)
    if last.kind == "code":
        return at_line if _TILDES.match(line) else len(text)
    if dialect is not Dialect.DISCORD:
        sure = stable_in_line(line)
        return at_line if fence_after("", line[:sure]) else at_line + sure  # a later backtick turns a fence into text
    header = last.lines[-2] if len(last.lines) > 1 else ""  # perhaps a table's header
    return at_line - len(header) - 1 if "|" in header and _PERHAPS_RULE.fullmatch(line) else at_line


def _blocks(text: str, dialect: Dialect) -> list[_Block]:
    """Group the lines into blocks; returns at least one."""
    lines = text.split("\n")
    blocks = [_Block("text", 0, [])]
    opened, start = "", 0
    for number, line in enumerate(lines):
        kind, fence = "text", fence_after(opened, line)
        if opened or fence:
            kind = "code"
        elif dialect is Dialect.DISCORD and _in_table(lines, number, blocks[-1]):
            kind = "table"
        if blocks[-1].kind != kind or (fence and not opened):
            blocks.append(_Block(kind, start, []))
        blocks[-1].lines.append(line)
        opened, start = fence, start + len(line) + 1
    return blocks if blocks[0].lines else blocks[1:]


def _in_table(lines: list[str], number: int, block: _Block) -> bool:
    """Whether a line continues a table or starts one (its next line is a rule). Rows must not close the code block."""
    line, rule = lines[number], lines[number + 1] if number + 1 < len(lines) else ""
    if "|" not in line or "```" in line:
        return False
    return block.kind == "table" or ("|" in rule and bool(_RULE.fullmatch(rule)))


def _code(lines: list[str], dialect: Dialect) -> list[str]:
    if dialect is Dialect.SLACK:
        return _escaped_code(lines)
    return _fenced(lines) if dialect is Dialect.DISCORD else lines


def _fenced(lines: list[str]) -> list[str]:
    """Fence a code block with backticks."""
    if not (opening := _TILDES.match(lines[0])):
        return lines
    marks = len(opening[2])
    shown = [_TILDES.sub(r"\1" + "`" * marks, lines[0]), *lines[1:]]
    if len(lines) > 1 and not fence_after(lines[0].lstrip(" \t>"), lines[-1]):
        shown[-1] = _TILDES.sub(r"\1" + "`" * marks, lines[-1])
    return shown


def _entities(text: str) -> str:
    return re.sub("[&<>]", lambda found: _ENTITIES[found.group()], text)


def _escaped_code(lines: list[str]) -> list[str]:
    """Escape a code block so that it has no mentions; quote marks stay."""
    quoted = ">" in lines[0].partition("`")[0].partition("~")[0]
    marks = [match.end() if quoted and (match := re.match(r"[ \t>]*", line)) else 0 for line in lines]
    return [line[:mark] + _entities(line[mark:]) for line, mark in zip(lines, marks, strict=True)]


def _escaped(line: str) -> str:
    """Escape a line of text so that it has no mentions; quote marks and addresses stay."""
    quote = _QUOTE.match(line)
    at = quote.end() if quote else 0
    shown, spans = [line[:at]], CodeSpans(line)
    while found := _SPECIAL.search(line, at):
        start, end = found.span()
        if found["ticks"]:
            end = spans.end(start, end) or end
        shown += line[at:start], _escaped_mark(found) or _entities(line[start:end])
        at = end
    return "".join([*shown, line[at:]])


def _escaped_mark(found: re.Match[str]) -> str:
    """Translate an escape or an address to Slack's form; '' for code and for characters that become entities."""
    if found["escaped"]:
        return _ENTITIES.get(found["escaped"], found.group())
    if found["target"]:
        return f"]({found['target']}"
    # Separate the entity from the address, or clients take it for a part of it.
    return found["url"] + (" &gt;" if found["closing"] else "") if found["url"] else ""


def _boxed(lines: list[str]) -> list[str]:
    """Format a table as a code block; aligns columns unless that exceeds _LARGEST_TABLE."""
    rows = [
        [cell.strip() for cell in _BETWEEN_CELLS.split(line.strip().removeprefix("|").removesuffix("|"))]
        for line in lines
    ]
    del rows[1]
    widths: list[int] = []
    for row in rows:
        widths += [0] * (len(row) - len(widths))
        widths[: len(row)] = map(max, map(len, row), widths)
    if len(lines) * (sum(widths) + len(" | ") * len(widths)) > _LARGEST_TABLE + 4 * sum(map(len, lines)):
        return ["```", *lines, "```"]
    texts = [" | ".join(map(str.ljust, row + [""] * (len(widths) - len(row)), widths)).rstrip() for row in rows]
    texts.insert(1, "-+-".join("-" * width for width in widths))
    return ["```", *texts, "```"]
