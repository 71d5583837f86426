"""Encodes text to token ids so that content cannot become control.

Takes a prompt as pieces, each either structure (written by a chat template) or content (written by people and models).
A control token, which is any added token of the tokenizer that is not mere whitespace, comes out of structure only,
never out of content nor out of where the two meet; content that holds no such token's text is tokenised exactly as it
would be inside the whole rendered prompt.

Tokenizers look for added tokens first and treat the text between two of them on its own. So the prompt is taken apart
at the structure's control tokens, and each stretch between is encoded with its neighbours around it, which keeps
leading spaces as they would be. A control token's text inside a stretch is cut after its first character, and both
sides are encoded apart: the same characters, but never that token.

A long text is looked at in parts of PART characters, and `pause` is called between them: whoever builds prompts beside
a running batch waits there, since both need the GIL.
"""

import re
import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from bot.types.errors import ModelError

REMEMBERED_BYTES = 16 << 20
"""What remembered stretches may take, for each model: some five times 400 turns of 2,000 characters."""
ENTRY_BYTES = 350
"""What a remembered stretch takes besides its text and its ids."""

PART = 16_384
"""Characters of a long text that are looked at in one go."""
SLACK = 4
"""Tokens that a part may take more on its own than inside its text."""
MOST_CONTROL, LONGEST_CONTROL = 1 << 17, 256
"""Control tokens that a tokenizer may have, and characters of each. Models of speech have 65,536, none of 100."""


class Piece(NamedTuple):
    """A part of a prompt. `structure` is true for text of the chat template, false for anybody's words."""

    text: str
    structure: bool


Pause = Callable[[], None]
"""Called every few milliseconds while a long text is worked on."""


def no_pause() -> None:
    """Go on at once."""


class Literals:
    """Finds any of many literal texts, the leftmost first, and of those the longest; linear in the length of a text."""

    def __init__(self, texts: Iterable[str], pause: Pause = no_pause) -> None:
        self._texts, self._pause = frozenset(texts), pause
        first = re.escape("".join({each[0] for each in self._texts}))
        self._first = re.compile(f"[{first}]" if first else "(?!)")
        lengths: dict[str, set[int]] = {}
        for each in self._texts:
            lengths.setdefault(each[:2], set()).add(len(each))
        self._lengths = {start: sorted(each, reverse=True) for start, each in lengths.items()}

    def find(self, text: str, at: int = 0) -> tuple[int, int] | None:
        """Where the first one from `at` on begins and ends."""
        for place in range(at, len(text), PART):
            for first in self._first.finditer(text, place, place + PART):
                begin = first.start()
                for start in (text[begin : begin + 2], text[begin]):  # one of a single character is filed under it
                    for length in self._lengths.get(start, ()):
                        if text[begin : begin + length] in self._texts:
                            return begin, begin + length
            self._pause()
        return None

    def all(self, text: str) -> Iterator[tuple[int, int]]:
        """Where they begin and end; none lies over another one."""
        at = 0
        while (found := self.find(text, at)) is not None:
            yield found
            at = found[1]

    def replace(self, text: str, new: Callable[[str], str]) -> str:
        """`text` with `new` of each in its place."""
        pieces, at = [], 0
        for begin, end in self.all(text):
            pieces += [text[at:begin], new(text[begin:end])]
            at = end
        return "".join([*pieces, text[at:]])


class SafeEncoder:
    """Encodes prompts for one tokenizer. `control` finds its control tokens.

    Raises ModelError if the tokenizer has more control tokens than any model needs.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str = "this model", pause: Pause = no_pause) -> None:
        added = tokenizer.added_tokens_decoder
        self._tokenizer = tokenizer
        self._ids = {token.content: number for number, token in added.items() if token.content.strip()}
        longest = max(map(len, self._ids), default=0)
        if len(self._ids) > MOST_CONTROL or longest > LONGEST_CONTROL:
            raise ModelError(
                f"The tokenizer of {name} has {len(self._ids):,} special tokens of up to {longest:,} characters, and"
                f" at most {MOST_CONTROL:,} of up to {LONGEST_CONTROL} are taken; choose another model."
            )
        self._control_ids = frozenset(self._ids.values())
        self.control = Literals(self._ids, pause)
        self._pause = pause
        self._longest = max(map(len, tokenizer.get_vocab()), default=1)
        flags = ("lstrip", "rstrip", "single_word", "normalized")  # with these a token changes what stands beside it
        tokens = (added[number] for number in self._ids.values())
        plain = [token.content for token in tokens if not any(getattr(token, flag) for flag in flags)]
        self._anchor = plain[0] if plain else ""
        # Ids and bytes of each; the one needed longest ago comes first.
        self._remembered = OrderedDict[tuple[str, str, str], tuple["array[int]", int]]()
        self.remembered_bytes = 0

    def encode(self, pieces: Iterable[Piece]) -> list[int]:
        """The ids of the pieces one after another; nothing is added at either end."""
        ids: list[int] = []
        before, stretch = "", ""
        for text, structure in pieces:
            if not structure:
                stretch += text
                continue
            at = 0
            for begin, end in self.control.all(text):
                stretch += text[at:begin]
                token = text[begin:end]
                ids += self._stretch(before, stretch, token)
                ids.append(self._ids[token])
                before, stretch, at = token, "", end
            stretch += text[at:]
        ids += self._stretch(before, stretch, "")
        return ids

    def least(self, content: str) -> int:
        """A lower bound of the tokens of `content`, by its length: no token has more characters than the longest."""
        return -(-len(content) // self._longest)

    def reach(self, tokens: int) -> int:
        """Characters that so many tokens have at most."""
        return tokens * self._longest

    def count(self, content: str, most: int = sys.maxsize) -> int:
        """How many tokens `content` takes, give or take one where it, or a part of it, meets its surroundings.

        More than `most` are not counted: then the result is a lower bound, more than `most`.
        """
        total = allowed = 0
        for part in _parts(content):
            total += len(self._stretch("", part, ""))
            if total - allowed > most:
                return total - allowed
            allowed += SLACK
        return total

    def _stretch(self, before: str, text: str, after: str) -> Sequence[int]:
        """As `_encode_stretch`, remembered, since a history is encoded anew with every turn."""
        key = (before, text, after)
        known = self._remembered.get(key)
        if known is None:
            ids = array("i", self._encode_stretch(before, text, after))  # ints of Python's own take nine times as much
            known = self._remembered[key] = ids, _bytes(text, ids)
            self.remembered_bytes += known[1]
        self._remembered.move_to_end(key)
        while self.remembered_bytes > REMEMBERED_BYTES:
            self.remembered_bytes -= self._remembered.popitem(last=False)[1][1]
        return known[0]

    def _encode_stretch(self, before: str, text: str, after: str) -> list[int]:
        """The ids of `text` between two control tokens ('': an end of the prompt)."""
        ids: list[int] = []
        pieces = self._cut(text)
        for number, piece in enumerate(pieces):
            left = before if number == 0 else self._anchor
            right = after if number == len(pieces) - 1 else ""
            ids += self._harmless(left, piece, right)
        return ids

    def _harmless(self, before: str, text: str, after: str) -> list[int]:
        """The ids of `text`, which holds no control token's text, without control ids."""
        ids = self._between(before, text, after)
        if self._control_ids.isdisjoint(ids):
            return ids
        # A normaliser made a control token of something else. What still is one on its own is left out.
        if len(text) == 1:
            return [id_ for id_ in ids if id_ not in self._control_ids]
        middle = len(text) // 2
        return self._harmless(before, text[:middle], "") + self._harmless(self._anchor, text[middle:], after)

    def _cut(self, text: str) -> list[str]:
        """`text` in pieces that hold no control token's text; a token of a single character is left out."""
        pieces, at = [], 0
        while (found := self.control.find(text, at)) is not None:
            begin, end = found
            pieces.append(text[at : begin + (end - begin > 1)])
            at = begin + 1
        return [*pieces, text[at:]]

    def _between(self, before: str, text: str, after: str) -> list[int]:
        if not text:
            return []
        self._pause()
        ids: list[int] = self._tokenizer.encode(before + text + after, add_special_tokens=False)
        return ids[bool(before) : len(ids) - bool(after)]


def _parts(text: str) -> Iterator[str]:
    """`text` in parts of about PART characters, cut before white space where there is some."""
    at = 0
    while len(text) - at > PART:
        end = max(text.rfind(char, at + PART // 2, at + PART) for char in " \n")
        end = end if end > at else at + PART
        yield text[at:end]
        at = end
    yield text[at:]


def _bytes(text: str, ids: "array[int]") -> int:
    """At most: what is not ASCII may come to hold its UTF-8 as well."""
    return sys.getsizeof(text) + (0 if text.isascii() else 4 * len(text)) + ids.itemsize * len(ids) + ENTRY_BYTES
