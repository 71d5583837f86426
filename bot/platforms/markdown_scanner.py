"""Scans one line of Markdown for code spans, escapes, links, addresses and marks of emphasis.

Not markdown-it's inline parser: this one also finds what only a client links (`www.`, invites), tells which end of a
growing line may still change, and takes linear time: every expression is possessive or bounded, and code spans are
closed by an index of the line's backtick runs.
"""

import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import groupby


def _punctuation() -> str:
    """Character class of the punctuation outside of ASCII, full-width symbols included."""
    codes = [
        code
        for code in range(0xA1, 0x20000)
        if unicodedata.category(chr(code))[0] in ("PS" if 0xFF00 < code < 0xFF66 else "P")
    ]
    runs = [list(run) for _, run in groupby(enumerate(codes), lambda each: each[1] - each[0])]
    return "".join(f"{chr(run[0][1])}-{chr(run[-1][1])}" for run in runs)


PUNCTUATION = _punctuation()
_FIRST = r"[^\s<>|`]"
_REST = rf"(?:[^\s<>|`,;!?{PUNCTUATION}]|[,;!?](?=[!-~]|\Z))"
"""A character of an address after its first; ASCII punctuation in front of another script belongs to the sentence."""
_DESTINATION = r"[^\s<>()`]"
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{1,31}+:"
_INVITE = r"(?ai:discord\.(?:gg|gift|new)|discord(?:app)?\.com)/"
"""Discord turns these into an invite or a gift, even without a scheme."""
_LONGEST_TARGET = 1000
"""Maximum length of a link destination; a longer one is scanned as text."""
LONGEST_MARKS = 8
"""Maximum marks of emphasis, or backticks around a code span, in a row; messages have no room to close more."""
_LONGEST_BEGINNING = 640
"""Upper bound of an unfinished address: an e-mail address without its last label."""
_ADDRESS = rf"""
    (?ai:https?)://           {_FIRST}{_REST}*+    # also right after a word
  | (?<![A-Za-z]) {_SCHEME}// (?<!(?ai:http)://) (?<!(?ai:https)://) {_FIRST}{_REST}*+
  | (?<=<) (?: {_SCHEME}/(?!/) | [A-Za-z]:/ ) {_FIRST}{_REST}*+    # <scheme:/path> is a link on Discord
  | (?<!\w) (?ai: mailto:(?=\S) | (?:tel|sms|callto):(?=[+\d]) ) {_FIRST}{_REST}*+
  | (?<![\w.-]) (?i:www)\.(?=[^\W_]) {_REST}++
  | (?<![A-Za-z0-9]) {_INVITE} {_REST}*+
  | (?<![A-Za-z0-9._+-]) [A-Za-z0-9._+-]{{1,64}}+ @ (?:[A-Za-z0-9-]{{1,63}}+\.){{1,8}} [A-Za-z]{{2,24}}+(?!://)
"""
"""Patterns that clients turn into links. Punctuation of any script ends them, as it ends the sentence around them."""
ADDRESS = re.compile(_ADDRESS, re.VERBOSE)
_IN_ADDRESSES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+._-:/@"

_NEXT = re.compile(
    rf"""
    \\ (?P<escaped> [^\w\s] )?
  | (?P<ticks> `++ )
  | (?P<bracket> !?\[ )
  | ! \Z
  | \] (?: \Z | \( (?P<lead> \s{{0,9}}+ <?+ ) )
  | (?P<address> {_ADDRESS} )
    """,
    re.VERBOSE,
)
_LINK = re.compile(
    rf"""
    !?\[ (?P<label> [^\[\]]*+ ) \]
    \( <?+
    (?P<target> {_DESTINATION}{{1,1000}}+ (?: \( {_DESTINATION}{{0,1000}}+ \) {_DESTINATION}{{0,1000}}+ ){{0,9}}+ )
    >?+ (?: \s{{1,99}}+ "[^")]*+" )?+ \)
    """,
    re.VERBOSE,
)
_LINK_BEGUN = re.compile(
    rf"""
    !?\[ [^\[\]]*+
    (?: \] (?: \( <?+ [^\s<>`]{{0,{_LONGEST_TARGET}}}+ >?+ (?: \s{{1,99}}+ (?: "[^")]*+ "?+ )?+ )?+ )?+ )?+ \Z
    """,
    re.VERBOSE,
)
_ABSOLUTE = re.compile(
    rf"""
    {_SCHEME}(?!:) | // | (?i:www)\. | {_INVITE} | [A-Za-z0-9._+-]{{1,64}}+@
  | [A-Za-z0-9-]{{1,63}}+ (?:\.[A-Za-z0-9-]{{1,63}}+){{1,8}}+ /
    """,
    re.VERBOSE,
)
"""Link destinations other than a name or a path, as in `[x](discord://-/settings)`."""
_BARE_SCHEME = re.compile(rf"{_SCHEME}(?!:){_FIRST}{_REST}*+")
_BACKTICKS = re.compile("`++")
_TASK = re.compile(r"\A(?P<item>(?:[ \t]*+>)*+[ \t]*+(?:[-*+]|\d{1,9}+[.)])[ \t]++)\[(?P<box>[ xX])\](?=[ \t])")
_BREAK = re.compile(r"<br[ \t]{0,3}/?>", re.IGNORECASE)
RULE = "─" * 20
"""Shown for a thematic break where a platform has none."""
_MARKS = re.compile(r"\*++|_++|(?<!~)~~(?!~)")


class TokenKind(Enum):
    """The kind of a token."""

    CODE = auto()
    ESCAPE = auto()
    BACKTICKS = auto()  # unclosed
    LINK = auto()  # with a label and an absolute destination
    ADDRESS = auto()
    UNFINISHED = auto()  # more text at the end of the line may turn this into a token


_OPAQUE = (TokenKind.CODE, TokenKind.ESCAPE, TokenKind.LINK, TokenKind.ADDRESS)
"""Tokens in which a mark of emphasis is text."""


@dataclass(frozen=True, slots=True)
class Token:
    """The token `line[start:end]`. address, label: spans of its address and its link label."""

    kind: TokenKind
    start: int
    end: int
    address: tuple[int, int] = (0, 0)
    label: tuple[int, int] = (0, 0)


class CodeSpans:
    """Finds the ends of code spans."""

    def __init__(self, line: str) -> None:
        self._runs: defaultdict[int, list[int]] = defaultdict(list)  # start offsets of backtick runs, by length
        for run in _BACKTICKS.finditer(line):
            self._runs[run.end() - run.start()].append(run.start())

    def end(self, start: int, end: int) -> int:
        """End of the code span that the backticks `line[start:end]` open; 0 if it is unclosed or too long a run."""
        if end - start > LONGEST_MARKS:
            return 0
        runs = self._runs.get(end - start, [])
        place = bisect_left(runs, end)
        return runs[place] + end - start if place < len(runs) else 0


def scan(line: str) -> Iterator[Token]:
    """Yield the tokens of a line in order; the rest is text."""
    spans, at, unsure = CodeSpans(line), 0, beginning_of_address(line)
    while found := _NEXT.search(line, at):
        start, at = found.span()
        if found["ticks"]:
            at = spans.end(start, at) or at
            yield Token(TokenKind.BACKTICKS if at == found.end() else TokenKind.CODE, start, at)
        elif found["escaped"]:
            yield Token(TokenKind.ESCAPE, start, at)
        elif found["address"]:
            yield Token(TokenKind.ADDRESS, start, at, (start, at))
        elif found["bracket"]:
            if link := _link(line, start):
                yield link
                at = link.end
            elif _LINK_BEGUN.match(line, start):
                yield Token(TokenKind.UNFINISHED, start, at)
        elif found["lead"] is not None:
            address = ADDRESS.match(line, at) or _BARE_SCHEME.match(line, at)
            if address:
                yield Token(TokenKind.ADDRESS, start, address.end(), address.span())
            elif at >= unsure:
                yield Token(TokenKind.UNFINISHED, start, at)
            at = address.end() if address else start + 1
        elif at == len(line):
            yield Token(TokenKind.UNFINISHED, start, at)


def beginning_of_address(line: str) -> int:
    """Offset of the last word of a line, which further text may turn into an address."""
    last = line[-_LONGEST_BEGINNING:]
    return len(line) - len(last) + len(last.rstrip(_IN_ADDRESSES))


def _link(line: str, start: int) -> Token | None:
    """Parse the link that starts at a bracket; None if there is none with an absolute destination."""
    found = _LINK.match(line, start)
    if not found or len(found["target"]) > _LONGEST_TARGET or not _ABSOLUTE.match(found["target"]):
        return None
    return Token(TokenKind.LINK, start, found.end(), found.span("target"), found.span("label"))


def between_breaks(line: str) -> list[str]:
    """Divide a line at each `<br>` outside of code and links."""
    if not _BREAK.search(line):
        return [line]
    pieces, done = [], 0
    tokens = [token for token in scan(line) if token.kind not in (TokenKind.BACKTICKS, TokenKind.UNFINISHED)]
    ends = iter([*((token.start, token.end) for token in tokens), (len(line), len(line))])
    start, end = next(ends)
    for found in _BREAK.finditer(line):
        while end <= found.start() and end < len(line):
            start, end = next(ends)
        if found.start() < start or end <= found.start():
            pieces.append(line[done : found.start()])
            done = found.end()
    return [*pieces, line[done:]]


def with_task_box(line: str) -> str:
    """Replace the box of a task list at the start of a line by a sign."""
    return _TASK.sub(lambda task: f"{task['item']}{'☐' if task['box'] == ' ' else '☑'}", line, count=1)


class Emphasis:
    """Pairs the marks of emphasis (`*`, `_`, `~~`) of consecutive lines of one paragraph.

    Unlike CommonMark, a mark may close wherever text precedes it: clients do so, and CJK text needs it.
    """

    def __init__(self) -> None:
        self._opened: list[tuple[int, str]] = []  # offset and marks
        self._places: dict[str, list[int]] = {"*": [], "_": [], "~": []}  # indices into _opened, by mark

    @property
    def opened(self) -> list[tuple[int, str]]:
        """Offset and text of each unclosed mark, outermost first."""
        return list(self._opened)

    def read(self, line: str, tokens: Iterable[Token], offset: int = 0) -> list[tuple[int, int]]:
        """Read a line, which begins at `offset`; returns the spans of its closed marks and of those they close."""
        closed: list[tuple[int, int]] = []
        done = 0
        for start, end in [*((token.start, token.end) for token in tokens if token.kind in _OPAQUE), (len(line),) * 2]:
            for run in _MARKS.finditer(line, done, start):
                if run.end() - run.start() > LONGEST_MARKS:
                    continue
                closed += self._read_run(line, run.start(), run.end(), offset)
            done = max(done, end)
        return closed

    def _read_run(self, line: str, start: int, end: int, offset: int) -> list[tuple[int, int]]:
        mark, before, after = line[start], line[start - 1 : start], line[end : end + 1]
        single = end - start == 1 and (before + after).isascii()  # 2*3, but not in scripts without spaces
        inside_word = before.isalnum() and after.isalnum() and (mark == "_" or (mark == "*" and single))
        spans: list[tuple[int, int]] = []
        if before and not before.isspace() and not inside_word:
            while start < end and self._places[mark]:
                length = self._close(mark, end - start, spans)
                spans.append((offset + start, offset + start + length))
                start += length
        if start < end and after and not after.isspace() and not inside_word:
            self._places[mark].append(len(self._opened))
            self._opened.append((offset + start, line[start:end]))
        return spans

    def _close(self, mark: str, most: int, spans: list[tuple[int, int]]) -> int:
        """Close the last opened mark with up to `most` characters; marks inside of it are text."""
        place = self._places[mark][-1]
        at, marks = self._opened[place]
        length = min(2, most, len(marks))
        kept = marks[:-length]
        spans.append((at + len(kept), at + len(marks)))
        del self._opened[place + bool(kept) :]
        if kept:
            self._opened[place] = (at, kept)
        for places in self._places.values():
            while places and places[-1] >= len(self._opened):
                places.pop()
        return length
