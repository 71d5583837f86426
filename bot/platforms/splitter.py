"""Splits an answer into messages; pure functions.

Each part is readable on its own: it is cut at a paragraph, line, sentence or word, and a code fence is closed at its
end and reopened, with its language, in the next part. Appended text never changes a full part. Time is linear in the
text: the expressions are possessive or bounded.
"""

import re
from dataclasses import dataclass

_BOUNDARIES = (
    re.compile(r"\n(?:[^\S\n]*+\n)++"),  # paragraph
    re.compile(r"\n"),  # line
    re.compile(r"[.!?…。！？](?:[\"')\]]*+\s|(?<=[。！？]))"),  # noqa: RUF001  sentence
    re.compile(r"\s"),  # word
)
_FENCE = re.compile(
    r"^(?:[ \t]*+(?:>|[-*+][ \t]|\d{1,3}[.)][ \t]))*+[ \t]*+"  # also in lists and quotes
    r"(`{3,}+|~{3,}+)[ \t]*+([^\n`]*+)$",
    re.MULTILINE,
)
_BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Bidi embeddings, overrides and isolates, which reorder the displayed text; Arabic and Hebrew need none of them."""
_ENTITY_BEGUN = re.compile(r"&[a-z]{0,3}$")
_CLOSING = 12
"""Characters reserved at the end of a part for its closing fence; longer runs of marks are not treated as fences."""
_REOPENING = 30
"""Maximum length of a line that reopens a fence; a longer one is reopened without its language."""


@dataclass(frozen=True, slots=True)
class Part:
    """One message. The first `committed` characters of `text` will never change when text follows."""

    text: str
    committed: int


def without_bidi_controls(text: str) -> str:
    """Remove the bidi control characters from `text`."""
    return _BIDI_CONTROLS.sub("", text)


def split(text: str, limit: int) -> list[Part]:
    """Split `text` into parts of at most `limit` characters (at least 100). The last part may still grow."""
    text = without_bidi_controls(text)
    parts, fence, at = [], "", 0
    while True:
        head = f"{fence}\n" if fence else ""
        room = limit - _CLOSING
        body = head + text[at : at + limit]
        if len(head) + len(text) - at <= room:
            closed, _ = _close(body)
            sure = max(_cut(body, room, len(head)), between_entities(body, min(len(body), room // 2)))
            parts.append(Part(closed, len(body[:sure].rstrip())))
            return parts
        cut = _cut(body, room, len(head)) or between_entities(body, room)
        closed, fence = _close(body[:cut].rstrip())
        at += cut - len(head)
        while at < len(text) and (text[at] == "\n" or (not fence and text[at].isspace())):
            at += 1
        parts.append(Part(closed, len(closed)))
        if at == len(text):
            return parts


def _cut(body: str, room: int, head: int) -> int:
    """Best cut in the second half of the room, 0 if there is none."""
    least = max(room // 2, head + 1)
    for boundary in _BOUNDARIES:
        ends = [match.end() for match in boundary.finditer(body, least, min(room, len(body)))]
        if ends:
            return ends[-1]
    return 0


def between_entities(body: str, at: int) -> int:
    """Move the cut `at` before an entity (`&lt;`) that it would split."""
    begun = _ENTITY_BEGUN.search(body[max(0, at - 4) : at])
    return at - len(begun.group()) if begun else at


def open_fence(text: str) -> str:
    """Opening line of the code fence that is open at the end of `text`, '' if none is."""
    opened = ""
    for match in _FENCE.finditer(text):
        opened = _after(opened, match)
    return opened


def fence_after(opened: str, line: str) -> str:
    """Opening line of the fence that is open after `line`; `opened` is the one open before it."""
    match = _FENCE.match(line)
    return _after(opened, match) if match else opened


def closed(text: str) -> str:
    """Close the code fence that is open at the end of `text`."""
    return _close(text)[0]


def _after(opened: str, fence: re.Match[str]) -> str:
    marks, info = fence.group(1), fence.group(2).strip().lstrip("~")
    if not opened:
        opening = f"{marks}{info}" if len(marks) < _CLOSING else ""
        return opening if len(opening) <= _REOPENING else marks
    closes = marks[0] == opened[0] and not info and len(marks) >= len(_marks(opened))
    return "" if closes else opened


def _close(text: str) -> tuple[str, str]:
    opened = open_fence(text)
    if not opened:
        return text, ""
    return f"{text}{'' if text.endswith(chr(10)) else chr(10)}{_marks(opened)}", opened


def _marks(opened: str) -> str:
    return opened[: len(opened) - len(opened.lstrip(opened[0]))]
