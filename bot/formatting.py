"""Cutting an answer into messages; pure functions.

In: Markdown as the model wrote it, and how many characters one message holds. Out: the parts, in order, each readable
on its own: cut at a paragraph, line, sentence or word, code fences closed at the end of a part and reopened, with their
language, at the beginning of the next. It promises that more text at the end never changes a part that was full.
"""

import re
from dataclasses import dataclass

_BOUNDARIES = (
    re.compile(r"\n\s*\n"),  # paragraph
    re.compile(r"\n"),  # line
    re.compile(r"[.!?…。！？]+[\"')\]]*(?:\s|(?<=[。！？]))"),  # noqa: RUF001  sentence
    re.compile(r"\s"),  # word
)
_FENCE = re.compile(
    r"^(?:[ \t]*(?:>|[-*+][ \t]|\d{1,3}[.)][ \t]))*[ \t]*"  # in lists and quotes, too
    r"(`{3,}|~{3,})[ \t]*([^\n`]*)$",
    re.MULTILINE,
)
_ENTITY_BEGUN = re.compile(r"&[a-z]{0,3}$")
_CLOSING = 12
"""Characters kept free at the end of a part for closing its fence; a longer row of marks is taken for an ornament."""
_REOPENING = 30
"""The longest line that reopens a fence; a longer one loses its language."""


@dataclass(frozen=True, slots=True)
class Part:
    """One message. `committed` characters of `text` (from its beginning) will never change, whatever comes after."""

    text: str
    committed: int


def split(text: str, limit: int) -> list[Part]:
    """The parts of `text`, each at most `limit` characters (at least 100). The last one may still grow."""
    parts, fence = [], ""
    while True:
        head = f"{fence}\n" if fence else ""
        body = head + text
        room = limit - _CLOSING
        if len(body) <= room:
            closed, _ = _close(body)
            sure = max(_cut(body, room, len(head)), between_entities(body, min(len(body), room // 2)))
            parts.append(Part(closed, len(body[:sure].rstrip())))
            return parts
        cut = _cut(body, room, len(head)) or between_entities(body, room)
        piece, text = body[:cut].rstrip(), body[cut:]
        closed, opened = _close(piece)
        fence = opened if len(opened) <= _REOPENING else _marks(opened)
        text = text.lstrip("\n") if fence else text.lstrip()
        parts.append(Part(closed, len(closed)))
        if not text:
            return parts


def _cut(body: str, room: int, head: int) -> int:
    """The best place to cut in the second half of the room, or 0 if there is none."""
    least = max(room // 2, head + 1)
    for boundary in _BOUNDARIES:
        ends = [match.end() for match in boundary.finditer(body, least, min(room, len(body)))]
        if ends:
            return ends[-1]
    return 0


def between_entities(body: str, at: int) -> int:
    """`at`, or the beginning of the entity (as `&lt;`) that it would cut in two."""
    begun = _ENTITY_BEGUN.search(body[max(0, at - 4) : at])
    return at - len(begun.group()) if begun else at


def open_fence(text: str) -> str:
    """The opening line of the code fence that is open at the end of `text` ('' if none is)."""
    opened = ""
    for match in _FENCE.finditer(text):
        opened = _after(opened, match)
    return opened


def fence_after(opened: str, line: str) -> str:
    """The opening line of the fence that is open after `line`, where `opened` was open before it."""
    match = _FENCE.match(line)
    return _after(opened, match) if match else opened


def closed(text: str) -> str:
    """`text` with the code fence closed that is open at its end."""
    return _close(text)[0]


def _after(opened: str, fence: re.Match[str]) -> str:
    marks, info = fence.group(1), fence.group(2).strip().lstrip("~")
    if not opened:
        return f"{marks}{info}" if len(marks) < _CLOSING else ""
    closes = marks[0] == opened[0] and not info and len(marks) >= len(_marks(opened))
    return "" if closes else opened


def _close(text: str) -> tuple[str, str]:
    opened = open_fence(text)
    if not opened:
        return text, ""
    return f"{text}{'' if text.endswith(chr(10)) else chr(10)}{_marks(opened)}", opened


def _marks(opened: str) -> str:
    return opened[: len(opened) - len(opened.lstrip(opened[0]))]
