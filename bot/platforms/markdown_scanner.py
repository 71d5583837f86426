"""Scans one line of Markdown for code spans, escapes, links and addresses in a single pass.

The time is linear in the length of the line: every expression here is possessive or bounded, so none backtracks over
unbounded text, and a code span finds its end in an index of the line's runs of backticks.
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
"""Discord makes an invitation or a gift of these, without any scheme."""
_LONGEST_TARGET = 1000
"""The longest destination of a link; a longer one is text in which addresses are found as anywhere else."""
_LONGEST_BEGINNING = 640
"""More than any address has before it is known to be one: an e-mail address without its last label."""
_ADDRESS = rf"""
    (?ai:https?)://           {_REST}++    # also right after a word
  | (?<![A-Za-z]) {_SCHEME}// (?<!(?ai:http)://) (?<!(?ai:https)://) {_REST}++
  | (?<=<) (?: {_SCHEME}/(?!/) | [A-Za-z]:/ ) {_REST}++    # <scheme:/path> is a link on Discord
  | (?<!\w) (?ai: mailto:(?=\S) | (?:tel|sms|callto):(?=[+\d]) ) {_REST}++
  | (?<![\w.-]) (?i:www)\.(?=[^\W_]) {_REST}++
  | (?<![A-Za-z0-9]) {_INVITE} {_REST}*+
  | (?<![A-Za-z0-9._+-]) [A-Za-z0-9._+-]{{1,64}}+ @ (?:[A-Za-z0-9-]{{1,63}}+\.){{1,8}} [A-Za-z]{{2,24}}+(?!://)
"""
"""What clients make a link of on sight."""
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
"""A destination that leads somewhere else than a name or a path, as in `[x](discord://-/settings)`."""
_BARE_SCHEME = re.compile(rf"{_SCHEME}(?!:){_REST}++")
_BACKTICKS = re.compile("`++")


class Kind(Enum):
    """What a token is."""

    CODE = auto()
    ESCAPE = auto()
    BACKTICKS = auto()  # that nothing closes
    LINK = auto()  # with a label and an absolute destination
    ADDRESS = auto()
    UNFINISHED = auto()  # nothing yet, but more text at the end of the line may make a token of it


@dataclass(frozen=True, slots=True)
class Token:
    """`line[start:end]`. address: where the address in it begins and ends. label: the same of a link's label."""

    kind: Kind
    start: int
    end: int
    address: tuple[int, int] = (0, 0)
    label: tuple[int, int] = (0, 0)


class CodeSpans:
    """Finds where code spans end."""

    def __init__(self, line: str) -> None:
        self._runs: defaultdict[int, list[int]] = defaultdict(list)  # where runs of backticks begin, by their length
        for run in _BACKTICKS.finditer(line):
            self._runs[run.end() - run.start()].append(run.start())

    def end(self, start: int, end: int) -> int:
        """The end of the code span that the backticks `line[start:end]` open; 0 if nothing closes it."""
        runs = self._runs.get(end - start, [])
        place = bisect_left(runs, end)
        return runs[place] + end - start if place < len(runs) else 0


def scan(line: str) -> Iterator[Token]:
    """The tokens of a line, in order; what lies between them is text."""
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
    """Where the last word of a line begins, which may become an address when the line goes on."""
    last = line[-_LONGEST_BEGINNING:]
    return len(line) - len(last) + len(last.rstrip(_IN_ADDRESSES))


def _link(line: str, start: int) -> Token | None:
    """The link that begins at a bracket, if there is one that leads somewhere."""
    found = _LINK.match(line, start)
    if not found or len(found["target"]) > _LONGEST_TARGET or not _ABSOLUTE.match(found["target"]):
        return None
    return Token(Kind.LINK, start, found.end(), found.span("target"), found.span("label"))
