"""Renders a model's Markdown in a platform's dialect; only known addresses become links. Pure functions, linear time.

markdown-it finds the blocks; the lines outside of code and tables are rendered one by one. For Discord and Slack every
fence becomes one of three backticks, a thematic break becomes a line, and boxes of task lists become signs. For
Discord, tables become code blocks with straight columns, and deep headings bold lines. For Slack, which marks mentions
with <...>, < and > are escaped, in code too.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, fence, heading, hr, table
from wcwidth import iter_graphemes, width

from bot.platforms.adapter import Dialect
from bot.platforms.markdown_scanner import RULE, CodeSpans, Emphasis, TokenKind, between_breaks, scan, with_task_box
from bot.platforms.splitter import without_bidi_controls
from bot.replies.links import KnownLinks, with_links
from bot.replies.links import stable_prefix as stable_in_line

_NARROW = "\u200b"
"""Breaks up a run of backticks inside of code, so that it does not close the code."""
_DEEPEST_HEADING = 3
"""Discord knows headings of one to three `#`."""
_MOST_MARKS = 12
_PERHAPS_RULE = re.compile(r"[ \t>|:-]*+")
_PERHAPS_MARKS = re.compile(
    r"(?:[ \t]*+(?:>|[-*+_]|\d{1,9}+[.)]?+))*+[ \t]*+(?:`{1,2}+|`{3,}+[^`]*+|~{1,2}+|~{3,}+.*+)?+"
)
"""A line that may still become a fence, a thematic break or a line of quoted code."""
_CONTAINERS = re.compile(r"(?:[ \t]*+(?:>|[-*+][ \t]|\d{1,9}+[.)][ \t]))*+[ \t]*+")
"""Quote marks and list markers at the start of a line."""
_LONGEST_PREFIX = 40
"""Maximum characters of a prefix that is repeated on added lines."""
_QUOTE = re.compile(r"(?:[ \t]*+(?:>|[-*+][ \t]|\d{1,3}[.)][ \t]))*+")
_LANGUAGE = re.compile(r"[\w.#+-]{1,20}+(?!\S)")
_TICKS = re.compile("`{3,}+")
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
_BETWEEN_CELLS = re.compile(r"\\.|\|")
_LARGEST_TABLE = 20_000
"""Maximum characters of a table with aligned columns; one wide cell widens every row."""

_Rule = Callable[[StateBlock, int, int, bool], bool]


@dataclass(frozen=True, slots=True)
class _Block:
    """The lines `start` to `end` of a text, as markdown-it has found them.

    level: number of containers around the block. content: offset in its first line behind quote marks and list markers.
    quoted: for each line the offset behind its quote marks. markup: marks of a fence or a heading. info: language of a
    fence, or text of a heading.
    """

    kind: str
    start: int
    end: int
    level: int
    content: int
    quoted: Sequence[int]
    markup: str
    info: str


def _recorded(kind: str, rule: _Rule) -> _Rule:
    """Wrap a block rule of markdown-it so that it records its blocks, with offsets that its tokens do not have."""

    def run(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        content, level = state.bMarks[start] + state.tShift[start], state.level
        if not rule(state, start, end, silent):
            return False
        if silent:
            return True
        if kind == "table":  # a line without a bar would be a row of one cell
            rows = range(start + 2, state.line)
            state.line = next((row for row in rows if "|" not in _line(state, row)), state.line)
        token = state.tokens[-3] if kind == "heading" else state.tokens[-1]
        begins = state.env["line_starts"]
        block = _Block(
            kind,
            start,
            state.line,
            level,
            content - begins[start],
            [state.bMarks[line] - begins[line] for line in range(start, state.line)],
            token.markup,
            state.tokens[-2].content if kind == "heading" else token.info,
        )
        state.env["blocks"].append(block)
        return True

    return run


def _fence(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The rule for fences, but code in a list item may be less indented than the item: models write it so.

    A row of very many marks is text.
    """
    begin = state.bMarks[start] + state.tShift[start]
    if state.src.startswith(("`" * _MOST_MARKS, "~" * _MOST_MARKS), begin):
        return False
    indentation, state.blkIndent = state.blkIndent, 0
    try:
        return fence(state, start, end, silent)
    finally:
        state.blkIndent = indentation


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The rule for tables, but the opening line of a fence, which is shown already, becomes no header."""
    begin = state.bMarks[start] + state.tShift[start]
    return not state.src.startswith(("```", "~~~"), begin) and table(state, start, end, silent)


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] : state.eMarks[line]]


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    # Code by indentation would hide fences that models indent; the others would change lines that are shown already.
    parser.disable(["code", "reference", "html_block", "lheading"])
    parser.core.ruler.enableOnly(["block"])  # inline content takes quadratic time there
    everywhere = ["paragraph", "blockquote", "list"]
    parser.block.ruler.at("fence", _recorded("fence", _fence), {"alt": everywhere})
    parser.block.ruler.at("table", _recorded("table", _table), {"alt": ["paragraph"]})
    parser.block.ruler.at("hr", _recorded("hr", hr), {"alt": everywhere})
    parser.block.ruler.at("heading", _recorded("heading", heading), {"alt": ["paragraph", "blockquote"]})
    return parser


_PARSER = _parser()


def render(text: str, dialect: Dialect, links: KnownLinks) -> str:
    """Render `text` in `dialect`; only addresses in `links` become links."""
    text = without_bidi_controls(text)
    lines, shown, done = text.split("\n"), list[str](), 0
    for block in _blocks(text):
        shown += _text(lines[done : block.start], dialect, links)
        shown += _block(block, lines, dialect, links)
        done = block.end
    return "\n".join([*shown, *_text(lines[done:], dialect, links)])


def stable_prefix(text: str, dialect: Dialect) -> int:
    """Number of leading characters whose rendering later text cannot change. `text` must have no bidi controls."""
    lines = text.split("\n")
    blocks = _blocks(text)
    last = blocks[-1] if blocks else None
    line = lines[-1]
    at_line = len(text) - len(line)
    if last is not None and last.kind == "fence" and last.end == len(lines):
        whole = last.start == len(lines) - 1 or last.level or last.content or not line.strip(" \t`~")
        return at_line if whole else len(text.rstrip("`"))
    if dialect is not Dialect.DISCORD:
        stable = stable_in_line(line)
        return at_line if _PERHAPS_MARKS.fullmatch(line[:stable]) else at_line + stable
    last_table = next((block for block in reversed(blocks) if block.kind == "table"), None)
    if last_table is not None and last_table.end >= len(lines) - 1:
        return sum(len(each) + 1 for each in lines[: last_table.start])  # the line may become another row
    header = lines[-2] if len(lines) > 1 else ""  # perhaps a table's header
    return at_line - len(header) - 1 if "|" in header and _PERHAPS_RULE.fullmatch(line) else at_line


def fence_to_continue(text: str) -> str:
    """The opening line of the code fence that is open at the end of a Markdown text, '' if none is."""
    lines = text.split("\n")
    last = next(reversed(_blocks(text)), None)
    if last is None or last.kind != "fence" or last.end < len(lines) or _is_closed(last, lines):
        return ""
    return f"{_repeated(lines[last.start][: last.content])}{last.markup}{last.info}"


@lru_cache(maxsize=4)  # a frame asks for the stable prefix of a text and renders it then
def _blocks(text: str) -> Sequence[_Block]:
    """Find the blocks that are not rendered line by line, in order."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    found: list[_Block] = []
    _PARSER.parse(text, {"blocks": found, "line_starts": starts})
    return found


def _block(block: _Block, lines: Sequence[str], dialect: Dialect, links: KnownLinks) -> list[str]:
    own, first = lines[block.start : block.end], lines[block.start]
    prefix = first[: block.content]
    if block.kind == "fence":
        return list(own) if dialect is Dialect.MARKDOWN else _code(block, lines, dialect)
    if block.kind == "table" and dialect is Dialect.DISCORD:
        return _boxed(block, own)
    if block.kind == "hr" and dialect is not Dialect.MARKDOWN:
        return [f"{prefix}{RULE}"]
    if block.kind == "heading" and dialect is Dialect.DISCORD and len(block.markup) > _DEEPEST_HEADING:
        return [f"{prefix}{_bold(block.info, links)}"]
    return _text(own, dialect, links)


def _text(lines: Sequence[str], dialect: Dialect, links: KnownLinks) -> list[str]:
    """Render lines outside of code and boxed tables."""
    if dialect is Dialect.MARKDOWN:
        return [with_links(line, links) for line in lines]
    shown: list[str] = []
    for line in lines:
        line = with_task_box(line)
        pieces = [with_links(piece, links) for piece in between_breaks(line)]
        if dialect is Dialect.SLACK:
            pieces = [_escaped(pieces[0]), *map(_escaped_inside, pieces[1:])]
        containers = _CONTAINERS.match(line)
        prefix = line[: containers.end()] if containers else ""
        joint = " " if line[len(prefix) :].startswith(("|", "#")) else f"\n{_repeated(prefix)}"
        shown.append(joint.join(pieces))
    return shown


def _repeated(prefix: str) -> str:
    """The prefix of a further line in the same containers: quote marks stay, a list marker becomes white space."""
    further = re.sub(r"[^>\s]", " ", prefix)
    return further if len(further) <= _LONGEST_PREFIX else ""


def _bold(text: str, links: KnownLinks) -> str:
    """Format the text of a heading as bold, with the marks of bold inside of it removed."""
    text = " ".join(between_breaks(text))
    spans = [(start, end, "") for start, end in Emphasis().read(text, list(scan(text))) if end - start > 1]
    inside = with_links(_replaced(text, spans), links).strip()
    return f"**{inside}**" if inside else ""


def _replaced(text: str, changes: Iterable[tuple[int, int, str]]) -> str:
    """Replace the spans of a text, given as start, end and replacement."""
    kept, done = list[str](), 0
    for start, end, replacement in sorted(changes):
        kept += text[done:start], replacement
        done = end
    return "".join([*kept, text[done:]])


def _is_closed(fence: _Block, lines: Sequence[str]) -> bool:
    """Whether a fence has its closing line; the end of a quote or of a list item ends it without one."""
    marks = lines[fence.end - 1][fence.quoted[-1] :].strip()
    return fence.end - fence.start > 1 and marks.startswith(fence.markup) and not marks.strip(fence.markup[0])


def _code(block: _Block, lines: Sequence[str], dialect: Dialect) -> list[str]:
    """Format a fence with three backticks, the only ones that all clients know; longer runs inside are broken up."""
    first, closed = lines[block.start], _is_closed(block, lines)
    prefix, language = first[: block.content], _LANGUAGE.match(block.info.strip())
    inside = list(range(block.start + 1, block.end - closed))
    shown = [f"{prefix}```{language.group() if language else ''}"]
    for number in inside:
        quoted = block.quoted[number - block.start]
        code = _TICKS.sub(lambda run: _NARROW.join(run.group()), lines[number][quoted:])
        shown.append(lines[number][:quoted] + (_entities(code) if dialect is Dialect.SLACK else code))
    if closed and not any(lines[number][block.quoted[number - block.start] :].strip() for number in inside):
        shown.append(f"{_closing_prefix(block, lines)}{_NARROW}")  # clients take a fence without code for text
    if closed or block.end < len(lines) - 1 or (block.end == len(lines) - 1 and lines[-1].strip()):
        shown.append(f"{_closing_prefix(block, lines) if closed else _repeated(prefix)}```")
    # Discord shows the indentation of a list in the code. Slack takes an indented fence for text outside of a list.
    if not prefix.strip() and (dialect is Dialect.DISCORD or not block.level):
        return [line[min(len(prefix), len(line) - len(line.lstrip(" \t"))) :] for line in shown]
    return shown


def _closing_prefix(block: _Block, lines: Sequence[str]) -> str:
    line = lines[block.end - 1].rstrip()
    return line[: len(line) - len(line.lstrip("> \t"))]


def _entities(text: str) -> str:
    return re.sub("[&<>]", lambda found: _ENTITIES[found.group()], text)


def _escaped(line: str) -> str:
    """Escape a line of text so that it has no mentions; quote marks and addresses stay."""
    quote = _QUOTE.match(line)
    at = quote.end() if quote else 0
    return line[:at] + _escaped_inside(line[at:])


def _escaped_inside(line: str) -> str:
    shown, at, spans = list[str](), 0, CodeSpans(line)
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


def _boxed(block: _Block, lines: Sequence[str]) -> list[str]:
    """Format a table as a code block; aligns columns unless that exceeds _LARGEST_TABLE."""
    prefix = lines[0][: block.content]
    further = _repeated(prefix)
    sources = [line[quoted:].strip() for line, quoted in zip(lines, block.quoted, strict=True)]
    sources[0] = lines[0][block.content :].strip()
    rows = [[_cell(cell) for cell in _cells(source)] for source in (sources[0], *sources[2:])]
    widths: list[int] = []
    for row in rows:
        widths += [0] * (len(row) - len(widths))
        widths[: len(row)] = map(max, (max(map(_columns, cell)) for cell in row), widths)
    height = sum(max(map(len, row), default=1) for row in rows) + 1
    if height * (sum(widths) + len(" | ") * len(widths)) > _LARGEST_TABLE + 4 * sum(map(len, lines)):
        shown = [_TICKS.sub(lambda run: _NARROW.join(run.group()), source) for source in sources]
    else:
        shown = [line for row in rows for line in _aligned(row, widths)]
        shown.insert(len(list(_aligned(rows[0], widths))), "-+-".join("-" * each for each in widths))
    return [f"{prefix}```", *(f"{further}{line}" for line in shown), f"{further}```"]


def _aligned(row: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """The lines of one row of a table, whose cells have several."""
    filled = [*row, *[[""]] * (len(widths) - len(row))]
    lines = zip_longest(*filled, fillvalue="")
    return [
        " | ".join(text + " " * (most - _columns(text)) for text, most in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _cells(source: str) -> list[str]:
    """Divide a row at its bars; an escaped bar is a part of its cell."""
    cells, done = [], 0
    for found in _BETWEEN_CELLS.finditer(source):
        if found.group() == "|":
            cells.append(source[done : found.start()])
            done = found.end()
    cells.append(source[done:])
    if len(cells) > 1 and not cells[0].strip():
        del cells[0]
    if len(cells) > 1 and not cells[-1].strip():
        del cells[-1]
    return [cell.strip().replace("\\|", "|") for cell in cells]


def _cell(text: str) -> list[str]:
    """The lines of a cell as plain text, without marks; a link is its label and its address."""
    return [_TICKS.sub(lambda run: _NARROW.join(run.group()), _plain(piece)) for piece in between_breaks(text)]


def _plain(text: str) -> str:
    tokens = list(scan(text))
    changes = [(start, end, "") for start, end in Emphasis().read(text, tokens)]
    for token in tokens:
        inside = text[token.start : token.end]
        if token.kind is TokenKind.CODE:
            changes.append((token.start, token.end, inside.strip("`").strip()))
        elif token.kind is TokenKind.ESCAPE:
            changes.append((token.start, token.end, inside[1:] or inside))
        elif token.kind is TokenKind.LINK:
            label, target = _plain(text[slice(*token.label)]), text[slice(*token.address)]
            shown = target if label in ("", target) else f"{label} ({target})"
            changes.append((token.start, token.end, shown))
    return _replaced(text, changes).strip()


def _columns(text: str) -> int:
    """Display width, by grapheme, because wcwidth takes quadratic time for a row of flags."""
    return len(text) if text.isascii() else sum(max(0, width(each)) for each in iter_graphemes(text))
