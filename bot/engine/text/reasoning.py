"""Separates a model's thoughts from its answer while both arrive, in whatever pieces they come.

Knows `<think>` and `[THINK]` tags, Gemma's thought channel, harmony's channels, and a pair of a repository's own. A tag
is either a control token (`marker`) or typed text (`push`): servers without a parser send thoughts as text. Thoughts
may begin in the prompt, after the first words of the answer, in upper case, and need no end. A tag in code or within a
sentence is part of the text: the answer speaks of it. Each character is read a bounded number of times, and at most the
length of a tag and one character are held back.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Tags:
    """What opens and closes thoughts. `header`: a word after the opening tag that is not part of the thoughts."""

    open: str
    close: str
    header: str = ""


THINK = Tags("<think>", "</think>")
MISTRAL = Tags("[THINK]", "[/THINK]")
GEMMA = Tags("<|channel>", "<channel|>", "thought")
TAGS = (THINK, MISTRAL, GEMMA)
"""The pairs that are recognised in any answer."""

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
ENDS = ("<|end|>", "<|return|>", "<|call|>")
HARMONY = (START, CHANNEL, "<|constrain|>", MESSAGE, *ENDS)
"""Control tokens of harmony, the format of gpt-oss."""

LONGEST_HEADER = 200
"""Most characters of the header of a harmony message; a longer one is text."""
SENTENCE_ENDS = frozenset(".!?\u2026\u3002\uff01\uff1f")
QUOTES = frozenset("`'\"\u2018\u2019\u201c\u201d\u00ab\u00bb")
FENCE = 3
FENCES = ("```", "~~~")


class Split(NamedTuple):
    """New text of an answer and of its thoughts. `retracts`: the text before this was part of the thoughts."""

    text: str = ""
    reasoning: str = ""
    retracts: bool = False


class _In(Enum):
    """What is being written."""

    TEXT = "text"
    THOUGHTS = "thoughts"
    ROLE = "role"  # after <|start|>
    HEADER = "header"  # after <|channel|>
    NOWHERE = "nowhere"  # a harmony message to a tool


class _Tag(NamedTuple):
    """A tag that waits for the next character. `token`: it is a token of the model, no typed text."""

    text: str
    token: bool


class _Place:
    """Where in the Markdown of an answer the next character stands. `begun`: visible text was written."""

    def __init__(self, *, begun: bool = False) -> None:
        self.begun = begun
        self.last = self.last_visible = ""
        self._line = "…" if begun else ""  # first visible characters of the line
        self._ticks, self._fence = 0, False

    @property
    def at_line_start(self) -> bool:
        """Whether only white space precedes on the line."""
        return not self._line

    @property
    def in_code(self) -> bool:
        """Whether this is inside a code block or a code span."""
        return self._fence or self._line in FENCES or self._ticks % 2 == 1

    def advance(self, text: str) -> None:
        """Pass over text."""
        for number, part in enumerate(text.split("\n")):
            if number:
                self._fence ^= self._line in FENCES
                self._line, self._ticks = "", 0
            if len(self._line) < FENCE:
                self._line = (self._line + part.lstrip()[:FENCE] if not self._line else self._line + part)[:FENCE]
            self._ticks += part.count("`")
        self.last = text[-1:] or self.last
        if visible := text.rstrip():
            self.begun, self.last_visible = True, visible[-1]


class ReasoningSplitter:
    """Splits one answer. `thinking`: whether what comes now is thoughts.

    opening: what the chat template wrote after the last question, which may open thoughts; None: it is not known here,
    so an end of thoughts without a beginning makes thoughts of the text before it. goes_on: the answer continues a
    text. own: a further pair of tags. keeps_space: white space before the first word is part of the text.
    """

    def __init__(
        self,
        opening: str | None = "",
        *,
        goes_on: bool = False,
        own: Tags | None = None,
        keeps_space: bool = False,
    ) -> None:
        self._pairs = {_lower(tags.open): tags for tags in (*TAGS, *filter(None, [own]))}
        self._closes = frozenset(_lower(tags.close) for tags in self._pairs.values())
        self.tags = frozenset((*self._pairs, *self._closes, *HARMONY))
        """The tags that it knows, in lower case."""
        self._in, self._tags = _In.TEXT, THINK
        self._harmony = False
        self._keeps_space = keeps_space
        self._may_retract = opening is None and not goes_on
        self._tag: _Tag | None = None  # a whole tag whose meaning depends on the next character
        self._held = ""  # the possible beginning of a tag
        self._header = ""  # of a harmony message
        self._lead: str | None = None  # the beginning of thoughts, while it may be a header
        self._place = _Place(begun=goes_on)
        self._thought = False  # there were thoughts
        self._apart = False  # a new paragraph begins with the next text
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._retracts = False
        self._begin(_lower(opening or ""))

    @property
    def thinking(self) -> bool:
        """Whether thoughts are being written."""
        return self._in is _In.THOUGHTS

    def push(self, text: str) -> Split:
        """Add text of the answer, and return what is certain."""
        if text:
            self._scan(text)
        return self._take()

    def marker(self, token: str) -> Split:
        """Add a token of the model that is a tag."""
        self._write_held()
        self._settle("")
        self._meet(_Tag(token, token=True))
        return self._take()

    def flush(self) -> Split:
        """Return the rest at the end of the answer."""
        self._write_held()
        self._settle("")
        self._write_lead()
        return self._take()

    def _begin(self, opening: str) -> None:
        """Take over the state in which the prompt leaves the answer."""
        at, last = max((opening.rfind(name), name) for name in (*self._pairs, CHANNEL))
        if at < 0:
            return
        rest = opening[at + len(last) :]
        if last == CHANNEL:
            self._harmony = True
            if not any(end in rest for end in ENDS):
                self._header, message, _ = rest.partition(MESSAGE)
                self._in = self._channel() if message else _In.HEADER
        elif _lower(self._pairs[last].close) not in rest:
            self._enter(self._pairs[last])
            self._write_thoughts(rest)
            self._reasoning.clear()  # it is the template's

    # reading

    def _scan(self, text: str) -> None:
        self._settle(text[0])
        text, self._held = self._held + text, ""
        at = 0
        while (found := _pattern(self._names()).search(text, at)) is not None:
            self._write(text[at : found.start()])
            at = found.end()
            self._meet(_Tag(found[0], token=False))
            if at < len(text):
                self._settle(text[at])
        end = len(text) - self._partial(text[at:])
        self._write(text[at:end])
        self._held = text[end:]

    def _names(self) -> tuple[str, ...]:
        """The tags that typed text can be now."""
        if self._harmony:
            return HARMONY
        if self.thinking:
            return (_lower(self._tags.close),)
        return (*self._pairs, *self._closes, *(() if self._place.begun else (CHANNEL,)))  # that opens an answer

    def _partial(self, text: str) -> int:
        """How many characters at the end may begin a tag."""
        names = self._names()
        tail = _lower(text[1 - max(map(len, names)) :])
        return max((len(tail) - at for at in range(len(tail)) if _begins(tail[at:], names)), default=0)

    def _meet(self, tag: _Tag) -> None:
        """Take a tag for what it is, or keep it until the next character decides."""
        name = _lower(tag.text)
        if name in HARMONY and not (self._harmony or tag.token or not self._place.begun):
            self._write(tag.text)
        elif name in HARMONY:
            self._harmony = True
            self._meet_harmony(name)
        elif self.thinking:
            if name != _lower(self._tags.close):
                self._write(tag.text)
            elif self._place.last in QUOTES:
                self._tag = tag
            else:
                self._leave()
        elif name in self._pairs and (not self._place.begun or (tag.token and self._pairs[name] is not THINK)):
            self._enter(self._pairs[name])  # no model writes a control token to speak of it
        else:
            self._tag = tag

    def _settle(self, following: str) -> None:
        """Decide about a waiting tag by the next character; '': a token follows, or nothing."""
        tag, self._tag = self._tag, None
        if tag is None:
            return
        name, place = _lower(tag.text), self._place
        quoted = place.last in QUOTES and following in QUOTES
        if self.thinking and not quoted:
            self._leave()
        elif not self.thinking and name in self._pairs and not quoted and self._opens(following, tag.token):
            self._enter(self._pairs[name])
        elif not self.thinking and name in self._closes and self._is_stray(following, tag.token):
            self._retract()
        else:
            self._write(tag.text)

    def _opens(self, following: str, token: bool) -> bool:
        """Whether an opening tag after the first words opens thoughts; else the text speaks of it."""
        place = self._place
        if place.in_code:
            return False
        if place.at_line_start or following == "\n" or place.last_visible in SENTENCE_ENDS:
            return True
        return token and following.isalnum()

    def _is_stray(self, following: str, token: bool) -> bool:
        """Whether an end without a beginning ends thoughts that began in the prompt."""
        if self._thought or self._place.in_code:
            return False
        ends = following in ("", "\n") and (token or self._place.at_line_start)
        return not self._place.begun or (self._may_retract and ends)

    # harmony

    def _meet_harmony(self, name: str) -> None:
        self._write_lead()
        if name == START:
            self._in, self._header = _In.ROLE, ""
        elif name == CHANNEL:
            self._in = _In.HEADER
        elif name == MESSAGE:
            self._in = self._channel()
            self._apart = self._place.begun
        elif name in ENDS:
            self._in, self._header = _In.TEXT, ""

    def _channel(self) -> _In:
        """What a message with this header holds."""
        header, self._header = self._header, ""
        if "to=" in header:
            return _In.NOWHERE
        if "analysis" not in header:
            return _In.TEXT
        self._enter(THINK)
        return _In.THOUGHTS

    # writing

    def _enter(self, tags: Tags) -> None:
        if self._thought:
            self._reasoning.append("\n\n")
        self._in, self._tags, self._thought, self._lead = _In.THOUGHTS, tags, True, ""
        self._place.last = ""

    def _leave(self) -> None:
        self._write_lead()
        self._in = _In.TEXT
        self._place.last = ""

    def _retract(self) -> None:
        """Take the text so far for thoughts; white space alone, which may have been returned already, stays text."""
        if self._place.begun:
            self._retracts = True
            self._reasoning += self._text
            self._text.clear()
        self._place, self._thought = _Place(), True

    def _write(self, text: str) -> None:
        if self._in in (_In.ROLE, _In.HEADER):
            self._header += text
            if len(self._header) <= LONGEST_HEADER:
                return
            text, self._header, self._in = self._header, "", _In.TEXT
        if self._in is _In.THOUGHTS:
            self._write_thoughts(text)
        elif self._in is _In.TEXT:
            if self._apart or not (self._keeps_space or self._place.begun):
                text = text.lstrip()
            if text and self._apart:
                text, self._apart = f"\n\n{text}", False
            self._place.advance(text)
            self._text.append(text)

    def _write_thoughts(self, text: str) -> None:
        self._place.last = text[-1:] or self._place.last
        if self._lead is not None:
            self._lead = (self._lead + text).lstrip()
            header = f"{self._tags.header}\n"
            if header.startswith(self._lead):
                return
            text = self._lead.removeprefix(header).lstrip()
            self._lead = None if text else header
        self._reasoning.append(text)

    def _write_lead(self) -> None:
        lead, self._lead = self._lead, None
        if lead and lead.strip() != self._tags.header:
            self._reasoning.append(lead)

    def _write_held(self) -> None:
        held, self._held = self._held, ""
        if held:
            self._write(held)

    def _take(self) -> Split:
        split = Split("".join(self._text), "".join(self._reasoning), self._retracts)
        self._text, self._reasoning, self._retracts = [], [], False
        return split


@lru_cache(maxsize=64)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))), re.ASCII | re.IGNORECASE)


def _begins(text: str, names: Iterable[str]) -> bool:
    return any(name.startswith(text) for name in names)


def _lower(text: str) -> str:
    """Lower case of ASCII letters only, of the same length."""
    return text.translate(_LOWER)


_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
