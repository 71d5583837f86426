"""Splits an answer into messages; pure functions.

Each part is readable on its own: it is cut at a paragraph, line, sentence or word, never inside of a grapheme, a link
or an entity. A code fence, emphasis or inline code that goes on is closed at the end of a part and reopened in the next
one. Appended text never changes a full part. Time is linear in the text: the expressions are possessive or bounded.

Fences are found line by line here, not by markdown-it, because the state at a cut must depend on nothing behind it.
"""

import re
from dataclasses import dataclass, replace

from wcwidth import grapheme_boundary_before

from bot.platforms.markdown_scanner import LONGEST_MARKS, Emphasis, Token, TokenKind, beginning_of_address, scan

_CLOSERS = "\"')\\]}”’»›」』）】》〉〕］｝｣"  # noqa: RUF001  punctuation that belongs to the sentence before it
_TRAILING = f"{_CLOSERS}。！？｡、，；：*_~"  # noqa: RUF001  what may follow a full stop or a comma without a space
_PARAGRAPH = re.compile(r"\n(?:[^\S\n]*+\n)++")
_BOUNDARIES = (
    _PARAGRAPH,
    re.compile(r"\n"),  # line
    re.compile(rf"[.!?…؟۔।॥][{_CLOSERS}]*+\s|[。！？｡][{_TRAILING}]{{0,8}}+(?=[^{_TRAILING}])"),  # noqa: RUF001  sentence
    re.compile(rf"\s|[，、；：][{_TRAILING}]{{0,8}}+(?=[^{_TRAILING}])"),  # noqa: RUF001  word
)
_FENCE = re.compile(
    r"^((?:[ \t]*+(?:>|[-*+][ \t]|\d{1,3}[.)][ \t]))*+[ \t]*+)"  # also in lists and quotes
    r"(`{3,}+|~{3,}+)[ \t]*+([^\n`]*+)$",
    re.MULTILINE,
)
_QUOTE = re.compile(r"(?:[ \t]*+>)++[ \t]?+")
_NEW_BLOCK = re.compile(r"[ \t>]*+(?:[-*+][ \t]|\d{1,9}+[.)][ \t]|#{1,6}+[ \t]|\||```|~~~)")
_BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Bidi embeddings, overrides and isolates, which reorder the displayed text; Arabic and Hebrew need none of them."""
_ENTITY_BEGUN = re.compile(r"&[a-z]{0,3}$")
_CLOSING = 20
"""Characters reserved at the end of a part for what closes it; longer runs of marks are not treated as fences."""
_LONGEST_SPAN = 1200
"""Characters before the end of a text that is cut off which may be left out with a span."""
_LONGEST_GRAPHEME = 32
"""Characters; a longer one, which no script needs, is cut."""
_REOPENING = 30
"""Maximum length of a line that reopens a fence; a longer one is reopened without its language."""
_MOST_INDENTATION = 3
"""Maximum indentation of a fence outside of a list, in characters; Markdown takes a deeper one for text."""


@dataclass(frozen=True, slots=True)
class Part:
    """One message. The first `committed` characters of `text` will never change when text follows."""

    text: str
    committed: int


@dataclass(frozen=True, slots=True)
class _Fence:
    """A code fence. prefix: the quote marks or the indentation before its marks. at: where its opening line begins."""

    prefix: str
    marks: str
    info: str
    at: int

    @property
    def opening(self) -> str:
        line = f"{self.prefix}{self.marks}{self.info}"
        return line if len(line) <= _REOPENING else f"{self.prefix}{self.marks}"


def without_bidi_controls(text: str) -> str:
    """Remove the bidi control characters from `text`."""
    return _BIDI_CONTROLS.sub("", text)


def split(text: str, limit: int) -> list[Part]:
    """Split `text` into parts of at most `limit` characters (at least 100). The last part may still grow."""
    text = without_bidi_controls(text)
    parts, head, at = list[Part](), "", 0
    room = limit - _CLOSING
    while True:
        body = head + text[at : at + room + 1]  # the cut of a full part depends on nothing behind it
        if len(head) + len(text) - at <= room:
            return [*parts, Part(closed(body), len(body[: _stable_cut(body, room, len(head))].rstrip()))]
        body = body[: room + 1]
        cut = _boundary(body, room, len(head)) or safe_cut(body, room)
        cut = _inside_code(body, cut, len(head))
        fence, marks = _open_fence(body[:cut]), ""
        if not fence:
            cut, marks = _outside_of_spans(body, cut, max(len(head) + 1, cut // 4))
        whole = body[:cut].rstrip()
        line = body[body.rfind("\n", 0, cut) + 1 : cut]
        at += cut - len(head)
        while at < len(text) and (text[at] == "\n" or (not fence and text[at].isspace())):
            line, at = "" if text[at] == "\n" else line, at + 1
        shown = _close(whole, fence) if fence else whole + _apart(whole[-1:], marks[::-1])
        parts.append(Part(shown, len(shown)))
        if at == len(text):
            return parts
        quote = _QUOTE.match(line)
        head = quote.group() if quote and len(quote.group()) < _CLOSING - len("```") else ""
        if not fence:
            head += marks + " " * (marks.endswith("`") and text[at] == "`")
            continue
        if len(fence.prefix) > _MOST_INDENTATION and not fence.prefix.strip():
            text = text[:at] + _dedented(text[at:], fence)
            fence = replace(fence, prefix="")
        head = f"{fence.opening}\n{head}"


def _stable_cut(body: str, room: int, head: int) -> int:
    """A position in a part that may still grow, at or before its later cut."""
    end = len(body.rstrip("*_~`\\![")) - 1
    found = _boundary(body, room, head)
    cut = max(found, safe_cut(body, min(end, room // 2)))
    if _open_fence(body[:cut]):
        cut = found or min(cut, safe_cut(body, room // 4))
        if fence := _open_fence(body[:cut]):  # the later cut may be at the end of this line, and move before it
            line = _last_line_of_code(body, len(body[:cut].rstrip("\n")), head, fence)
            return line or safe_cut(body, max(head, cut // 2 - 1))
        return cut
    last_word = body.rfind("\n") + 1 + beginning_of_address(body[body.rfind("\n") + 1 :])
    cut = min(cut, last_word)
    return _outside_of_spans(body, cut, max(head + 1, cut // 4))[0]


def _apart(before: str, marks: str) -> str:
    """Marks that follow `before`; two runs of backticks must not become one."""
    return f" {marks}" if before == "`" and marks.startswith("`") else marks


def _boundary(body: str, room: int, head: int) -> int:
    """Best boundary in the second half of the room, 0 if there is none."""
    least = max(room // 2, head + 1)
    for boundary in _BOUNDARIES:
        ends = [match.end() for match in boundary.finditer(body, least, min(room + 1, len(body)))]
        if boundary is _PARAGRAPH:  # more empty lines behind the room would move it far back
            ends = [min(end, room) for end in ends]
        ends = [end for end in ends[-2:] if end <= room]
        if ends:
            return ends[-1]
    return 0


def _inside_code(body: str, cut: int, head: int) -> int:
    """Move a cut so that both parts have a line of code, since Discord and Slack take a fence without one for text.

    A cut between lines moves before the last of them, because the next one may close the fence.
    """
    fence = _open_fence(body[:cut])
    if not fence:
        return cut
    end = len(body[:cut].rstrip("\n"))
    if end == cut:  # within a line
        opening = body.rfind("\n", 0, len(body[:cut].rstrip(" \t>\n"))) + 1 <= fence.at
        return fence.at if opening and body[head : fence.at].strip() else cut
    line = _last_line_of_code(body, end, head, fence)
    if line:
        return line
    earlier = _boundary(body, end - 1, head) or safe_cut(body, end - 1)
    return earlier if earlier > head else cut


def _last_line_of_code(body: str, end: int, head: int, fence: _Fence) -> int:
    """Where the line that ends at `end` begins, or before the fence if it is the first one; 0 if neither is a cut."""
    line = body.rfind("\n", 0, end) + 1
    if line > head and body[max(head, body.find("\n", fence.at) + 1) : line].strip():
        return line
    return fence.at if body[head : fence.at].strip() else 0


def safe_cut(body: str, at: int) -> int:
    """Move the cut `at` before a grapheme or an entity (`&lt;`) that it would split."""
    if 0 < at < len(body):
        begin = grapheme_boundary_before(body, at + 1)
        at = begin if at - begin < _LONGEST_GRAPHEME else at
    begun = _ENTITY_BEGUN.search(body[max(0, at - 4) : at])
    return at - len(begun.group()) if begun else at


def beginning(text: str, most: int) -> str:
    """The beginning of a text, cut after at most `most` characters and closed; the text itself if it is not longer."""
    if len(text) <= most:
        return text
    body = text[: most + 1]
    cut, marks = safe_cut(body, most), ""
    if not _open_fence(body[:cut]):
        cut, marks = _outside_of_spans(body, cut, max(0, most - _LONGEST_SPAN))
    whole = body[:cut].rstrip()
    return whole + _apart(whole[-1:], marks[::-1])


def _outside_of_spans(body: str, cut: int, least: int) -> tuple[int, str]:
    """Move a cut before the link, code or emphasis around it, if that begins at `least` or later.

    Returns the cut, and the marks that are open there, to be closed and reopened.
    """
    spans: list[tuple[int, str]] = []
    for _ in range(2):  # emphasis around a link or code shows only once the cut is before that
        before_marks = len(body[:cut].rstrip("*_~"))
        if least <= before_marks and cut - before_marks <= LONGEST_MARKS:
            cut = before_marks
        spans = _spans_around(body, cut)
        moved = min((start for start, _ in spans if start >= least), default=cut)
        if moved == cut:
            break
        cut = moved
    still_open = [marks for start, marks in spans if start < cut]
    if sum(map(len, still_open)) >= _CLOSING - 1:
        still_open = [marks for marks in still_open if "`" in marks and len(marks) <= LONGEST_MARKS]
    return cut, "".join(still_open)


def _spans_around(body: str, cut: int) -> list[tuple[int, str]]:
    """Start and marks of the spans that are open at a cut, outermost first; the marks of a link are ''."""
    emphasis, begin = Emphasis(), _paragraph(body, cut)
    while True:
        newline = body.find("\n", begin)
        end = newline if newline >= 0 else len(body)
        line = body[begin:end]
        tokens = list(scan(line))
        if end >= cut:
            around = _token_around(line, tokens, cut - begin, grows=newline < 0)
            before = line[: around.start if around else cut - begin]
            emphasis.read(before, [token for token in tokens if token.end <= len(before)], begin)
            if not around:
                return emphasis.opened
            ticks = line[around.start : around.end] if around.kind in (TokenKind.BACKTICKS, TokenKind.CODE) else ""
            return [*emphasis.opened, (begin + around.start, ticks[: len(ticks) - len(ticks.lstrip("`"))])]
        emphasis.read(line, tokens, begin)
        begin = end + 1


def _paragraph(body: str, cut: int) -> int:
    """Start of the paragraph around a cut."""
    begin = body.rfind("\n", 0, cut) + 1
    while begin and not _NEW_BLOCK.match(body, begin):
        before = body.rfind("\n", 0, begin - 1) + 1
        if not body[before : begin - 1].strip(" \t>"):
            break
        begin = before
    return begin


def _token_around(line: str, tokens: list[Token], at: int, *, grows: bool) -> Token | None:
    """The token of a line that a cut would split; one that the line does not finish goes on to its end.

    grows: the line has no end yet, so that such a token may go on behind it.
    """
    for token in tokens:
        open_ended = token.kind in (TokenKind.BACKTICKS, TokenKind.UNFINISHED)
        if token.start < at < (len(line) + grows if open_ended else token.end):
            return token
    return None


def open_fence(text: str) -> str:
    """Opening line of the code fence that is open at the end of `text`, '' if none is."""
    opened = _open_fence(text)
    return opened.opening if opened else ""


def closed(text: str) -> str:
    """Close the code fence that is open at the end of `text`."""
    opened = _open_fence(text)
    return _close(text, opened) if opened else text


def _open_fence(text: str) -> _Fence | None:
    opened: _Fence | None = None
    for match in _FENCE.finditer(text):
        opened = _after(opened, match)
    return opened


def _after(opened: _Fence | None, line: re.Match[str]) -> _Fence | None:
    """The fence that is open after a line of marks."""
    prefix, marks, info = line.group(1), line.group(2), line.group(3).strip().lstrip("~")
    if opened:
        closes = marks[0] == opened.marks[0] and not info and len(marks) >= len(opened.marks)
        return None if closes else opened
    further = re.sub(r"[^>\s]", " ", prefix)
    room = _CLOSING - len(marks) - 1
    return _Fence(further if len(further) <= room else "", marks, info, line.start()) if room > 0 else None


def _close(text: str, fence: _Fence) -> str:
    return f"{text}{'' if text.endswith(chr(10)) else chr(10)}{fence.prefix}{fence.marks}"


def _dedented(text: str, fence: _Fence) -> str:
    """Remove the indentation of an open fence from its lines, and from its closing line."""
    end = len(text)
    for match in _FENCE.finditer(text):
        if not _after(fence, match):
            end = match.end()
            break
    lines = text[:end].split("\n")
    return "\n".join(line[min(len(fence.prefix), len(line) - len(line.lstrip(" \t"))) :] for line in lines) + text[end:]
