"""Scans one line of Markdown for code spans, escapes, links and addresses in a single pass.

Time is linear in the line: every expression is possessive or bounded, and code spans are closed by an index of the
line's backtick runs.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

_REST = r"[^\s<>|`]"
_DESTINATION = r"[^\s<>()`]"
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{1,31}+:"
_INVITE = r"(?ai:discord\.(?:gg|gift|new)|discord(?:app)?\.com)/"
"""Discord turns these into an invite or a gift, even without a scheme."""
_LONGEST_TARGET = 1000
"""Maximum length of a link destination; a longer one is scanned as text."""
_LONGEST_BEGINNING = 640
"""Upper bound of an unfinished address: an e-mail address without its last label."""
_ADDRESS = rf"""
    (?ai:https?)://           {_REST}++    # also right after a word
  | (?<![A-Za-z]) {_SCHEME}// (?<!(?ai:http)://) (?<!(?ai:https)://) {_REST}++
  | (?<=<) (?: {_SCHEME}/(?!/) | [A-Za-z]:/ ) {_REST}++    # <scheme:/path> is a link on Discord
  | (?<!\w) (?ai: mailto:(?=\S) | (?:tel|sms|callto):(?=[+\d]) ) {_REST}++
  | (?<![\w.-]) (?i:www)\.(?=[^\W_]) {_REST}++
  | (?<![A-Za-z0-9]) {_INVITE} {_REST}*+
  | (?<![A-Za-z0-9._+-]) [A-Za-z0-9._+-]{{1,64}}+ @ (?:[A-Za-z0-9-]{{1,63}}+\.){{1,8}} [A-Za-z]{{2,24}}+(?!://)
"""
"""Patterns that clients turn into links."""
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
_BARE_SCHEME = re.compile(rf"{_SCHEME}(?!:){_REST}++")
_BACKTICKS = re.compile("`++")


class Kind(Enum):
    """Kind of a token."""

    CODE = auto()
    ESCAPE = auto()
    BACKTICKS = auto()  # unclosed
    LINK = auto()  # with a label and an absolute destination
    ADDRESS = auto()
    UNFINISHED = auto()  # more text at the end of the line may turn this into a token


@dataclass(frozen=True, slots=True)
class Token:
    """The token `line[start:end]`. address, label: spans of its address and its link label."""

    kind: Kind
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
        """End of the code span that the backticks `line[start:end]` open; 0 if it is unclosed."""
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
            yield Token(Kind.BACKTICKS if at == found.end() else Kind.CODE, start, at)
        elif found["escaped"]:
            yield Token(Kind.ESCAPE, start, at)
        elif found["address"]:
            yield Token(Kind.ADDRESS, start, at, (start, at))
        elif found["bracket"]:
            if link := _link(line, start):
                yield link
                at = link.end
            elif _LINK_BEGUN.match(line, start):
                yield Token(Kind.UNFINISHED, start, at)
        elif found["lead"] is not None:
            address = ADDRESS.match(line, at) or _BARE_SCHEME.match(line, at)
            if address:
                yield Token(Kind.ADDRESS, start, address.end(), address.span())
            elif at >= unsure:
                yield Token(Kind.UNFINISHED, start, at)
            at = address.end() if address else start + 1
        elif at == len(line):
            yield Token(Kind.UNFINISHED, start, at)


def beginning_of_address(line: str) -> int:
    """Offset of the last word of a line, which further text may turn into an address."""
    last = line[-_LONGEST_BEGINNING:]
    return len(line) - len(last) + len(last.rstrip(_IN_ADDRESSES))


def _link(line: str, start: int) -> Token | None:
    """Parse the link that starts at a bracket; None if there is none with an absolute destination."""
    found = _LINK.match(line, start)
    if not found or len(found["target"]) > _LONGEST_TARGET or not _ABSOLUTE.match(found["target"]):
        return None
    return Token(Kind.LINK, start, found.end(), found.span("target"), found.span("label"))
