"""Encodes prompts to token ids so that content cannot become a control token.

A prompt is a list of pieces, each either structure (written by a chat template) or content (written by people and
models). A control token is any added token of the tokenizer that is not just white space. Control tokens come from
structure only, never from content or from a boundary between the two. Content without the text of a control token is
tokenised exactly as inside the whole rendered prompt.

Tokenizers split text at added tokens first and treat the text between two of them on its own. So the prompt is split at
the structure's control tokens, and each stretch between two is encoded together with them, which preserves leading
spaces. The text of a control token inside a stretch is cut after its first character and both sides are encoded
separately: the same characters, but never that token.

Long texts are processed in parts of PART characters. `pause` is called between them, so that a thread that builds
prompts can yield the GIL to a running batch.
"""

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from bot.engine.text.literal_matcher import PART, LiteralMatcher, Pause, no_pause
from bot.types.errors import ModelError

CACHE_BYTES = 16 << 20
"""Size limit of the cache of encoded stretches, per model: about five times 400 turns of 2,000 characters."""
ENTRY_BYTES = 350
"""Size of a cache entry without its text and its ids."""

PART_OVERHEAD = 4
"""Extra tokens that a part may take when it is encoded on its own instead of inside its text."""
MOST_CONTROL, LONGEST_CONTROL = 1 << 17, 256
"""Most control tokens of a tokenizer, and most characters of each. Speech models have 65,536, none of 100."""


class Piece(NamedTuple):
    """A part of a prompt. `structure`: true for text of the chat template, false for content."""

    text: str
    structure: bool


class SafeEncoder:
    """Encodes prompts for one tokenizer. `control` finds its control tokens.

    Raises ModelError if the tokenizer has too many or too long control tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str = "this model", pause: Pause = no_pause) -> None:
        added = tokenizer.added_tokens_decoder
        self._tokenizer = tokenizer
        self._ids = {token.content: number for number, token in added.items() if token.content.strip()}
        longest = max(map(len, self._ids), default=0)
        if len(self._ids) > MOST_CONTROL or longest > LONGEST_CONTROL:
            raise ModelError(
                f"The tokenizer of {name} has {len(self._ids):,} special tokens of up to {longest:,} characters; the"
                f" limit is {MOST_CONTROL:,} of {LONGEST_CONTROL}. Choose another model."
            )
        self._control_ids = frozenset(self._ids.values())
        self.control = LiteralMatcher(self._ids, pause)
        self._pause = pause
        self._longest = max(map(len, tokenizer.get_vocab()), default=1)
        flags = ("lstrip", "rstrip", "single_word", "normalized")  # such a token affects its neighbours
        tokens = (added[number] for number in self._ids.values())
        plain = [token.content for token in tokens if not any(getattr(token, flag) for flag in flags)]
        self._anchor = plain[0] if plain else ""
        # (ids, bytes) of each stretch, least recently used first.
        self._cache = OrderedDict[tuple[str, str, str], tuple["array[int]", int]]()
        self.cache_bytes = 0

    def control_id(self, token: str) -> int | None:
        """Return the id of a control token; None if it is none."""
        return self._ids.get(token)

    def encode(self, pieces: Iterable[Piece]) -> list[int]:
        """Return the ids of all pieces; adds no tokens at either end."""
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
                ids += self._encode_cached(before, stretch, token)
                ids.append(self._ids[token])
                before, stretch, at = token, "", end
            stretch += text[at:]
        ids += self._encode_cached(before, stretch, "")
        return ids

    def min_tokens(self, content: str) -> int:
        """Return a lower bound of the tokens of `content`, from its length and the longest token."""
        return -(-len(content) // self._longest)

    def max_chars(self, tokens: int) -> int:
        """Return the most characters that so many tokens can hold."""
        return tokens * self._longest

    def count(self, content: str, most: int = sys.maxsize) -> int:
        """Count the tokens of `content`, to within one token at each end and at each boundary between parts.

        Stops above `most`: the result is then a lower bound greater than `most`.
        """
        total = allowed = 0
        for part in _parts(content):
            total += len(self._encode_cached("", part, ""))
            if total - allowed > most:
                return total - allowed
            allowed += PART_OVERHEAD
        return total

    def _encode_cached(self, before: str, text: str, after: str) -> Sequence[int]:
        """Cached `_encode_stretch`, because each turn encodes the history again."""
        key = (before, text, after)
        known = self._cache.get(key)
        if known is None:
            ids = array("i", self._encode_stretch(before, text, after))  # Python's ints take nine times as much
            known = self._cache[key] = ids, _bytes(text, ids)
            self.cache_bytes += known[1]
        self._cache.move_to_end(key)
        while self.cache_bytes > CACHE_BYTES:
            self.cache_bytes -= self._cache.popitem(last=False)[1][1]
        return known[0]

    def _encode_stretch(self, before: str, text: str, after: str) -> list[int]:
        """Encode `text` between two control tokens ('' for an end of the prompt)."""
        ids: list[int] = []
        pieces = self._cut(text)
        for number, piece in enumerate(pieces):
            left = before if number == 0 else self._anchor
            right = after if number == len(pieces) - 1 else ""
            ids += self._without_control(left, piece, right)
        return ids

    def _without_control(self, before: str, text: str, after: str) -> list[int]:
        """Encode `text`, which holds no control token's text, without control ids."""
        ids = self._between(before, text, after)
        if self._control_ids.isdisjoint(ids):
            return ids
        # A normaliser produced a control token: bisects the text and drops the characters that cause it.
        if len(text) == 1:
            return [id_ for id_ in ids if id_ not in self._control_ids]
        middle = len(text) // 2
        return self._without_control(before, text[:middle], "") + self._without_control(
            self._anchor, text[middle:], after
        )

    def _cut(self, text: str) -> list[str]:
        """Split `text` so that no piece holds a control token's text; drops control tokens of one character."""
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
    """Split `text` into parts of about PART characters, before white space if possible."""
    at = 0
    while len(text) - at > PART:
        end = max(text.rfind(char, at + PART // 2, at + PART) for char in " \n")
        end = end if end > at else at + PART
        yield text[at:end]
        at = end
    yield text[at:]


def _bytes(text: str, ids: "array[int]") -> int:
    """Return an upper bound of an entry's size; a str that is not ASCII may also store its UTF-8."""
    return sys.getsizeof(text) + (0 if text.isascii() else 4 * len(text)) + ids.itemsize * len(ids) + ENTRY_BYTES
