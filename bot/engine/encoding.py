"""Text to token ids, with no way for content to become control.

Comes in: a prompt as pieces, each either structure (written by a chat template) or content (written by people and
models). Goes out: token ids. Promises: a control token, which is any added token of the tokenizer that is not mere
whitespace, comes out of structure only, never out of content nor out of where the two meet; content that holds no such
token's text is tokenised exactly as it would be inside the whole rendered prompt.

Tokenizers look for added tokens first and treat the text between two of them on its own. So the prompt is taken apart
at the structure's control tokens, and each stretch between is encoded with its neighbours around it, which keeps
leading spaces as they would be. A control token's text inside a stretch is cut after its first character, and both
sides are encoded apart: the same characters, but never that token.
"""

import re
import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

REMEMBERED_BYTES = 16 << 20
"""What remembered stretches may take, for each model: some five times 400 turns of 2,000 characters."""
ENTRY_BYTES = 350
"""What a remembered stretch takes besides its text and its ids."""


class Piece(NamedTuple):
    """A part of a prompt. `structure` is true for text of the chat template, false for anybody's words."""

    text: str
    structure: bool


class SafeEncoder:
    """Encodes prompts for one tokenizer. `control` matches the text of any control token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = tokenizer.added_tokens_decoder
        self._tokenizer = tokenizer
        self._ids = {token.content: number for number, token in added.items() if token.content.strip()}
        self._control_ids = frozenset(self._ids.values())
        longest_first = sorted(self._ids, key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
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
            for match in self.control.finditer(text):
                stretch += text[at : match.start()]
                ids += self._stretch(before, stretch, match.group())
                ids.append(self._ids[match.group()])
                before, stretch, at = match.group(), "", match.end()
            stretch += text[at:]
        ids += self._stretch(before, stretch, "")
        return ids

    def count(self, content: str) -> int:
        """How many tokens `content` takes, give or take one where it meets its surroundings."""
        return len(self._stretch("", content, ""))

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
        parts = self._cut(text)
        ids: list[int] = []
        for number, part in enumerate(parts):
            left = before if number == 0 else self._anchor
            right = after if number == len(parts) - 1 else ""
            found = self._between(left, part, right)
            if not self._control_ids.isdisjoint(found):
                # A normaliser made a control token of something else, or one has a single character. Nothing can be
                # joined from characters that are encoded one by one, and what still is control is left out.
                found = [id_ for char in part for id_ in self._between(self._anchor, char, "")]
                found = [id_ for id_ in found if id_ not in self._control_ids]
            ids += found
        return ids

    def _cut(self, text: str) -> list[str]:
        """`text` in parts that hold no control token's text (save one of a single character)."""
        parts = []
        at = 0
        while match := self.control.search(text, at):
            parts.append(text[at : match.start() + 1])
            at = match.start() + 1
        return [*parts, text[at:]]

    def _between(self, before: str, text: str, after: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = self._tokenizer.encode(before + text + after, add_special_tokens=False)
        return ids[bool(before) : len(ids) - bool(after)]


def _bytes(text: str, ids: "array[int]") -> int:
    """At most: what is not ASCII may come to hold its UTF-8 as well."""
    return sys.getsizeof(text) + (0 if text.isascii() else 4 * len(text)) + ids.itemsize * len(ids) + ENTRY_BYTES
