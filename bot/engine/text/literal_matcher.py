"""Finds many literal texts in a text."""

import re
from collections.abc import Callable, Iterable, Iterator

PART = 16_384
"""Characters of a long text processed between two pauses."""

Pause = Callable[[], None]
"""Called every few milliseconds of work on a long text."""


def no_pause() -> None:
    """Return immediately."""


class LiteralMatcher:
    """Finds many literal texts, leftmost first, then longest; linear in the length of the searched text."""

    def __init__(self, texts: Iterable[str], pause: Pause = no_pause) -> None:
        self._texts, self._pause = frozenset(texts), pause
        first = re.escape("".join({each[0] for each in self._texts}))
        self._first = re.compile(f"[{first}]" if first else "(?!)")
        lengths: dict[str, set[int]] = {}
        for each in self._texts:
            lengths.setdefault(each[:2], set()).add(len(each))
        self._lengths = {start: sorted(each, reverse=True) for start, each in lengths.items()}

    def find(self, text: str, at: int = 0) -> tuple[int, int] | None:
        """Return (begin, end) of the first match from `at` on, or None."""
        for place in range(at, len(text), PART):
            for first in self._first.finditer(text, place, place + PART):
                begin = first.start()
                for start in (text[begin : begin + 2], text[begin]):  # single characters have no second
                    for length in self._lengths.get(start, ()):
                        if text[begin : begin + length] in self._texts:
                            return begin, begin + length
            self._pause()
        return None

    def all(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of all matches, which do not overlap."""
        at = 0
        while (found := self.find(text, at)) is not None:
            yield found
            at = found[1]

    def replace(self, text: str, new: Callable[[str], str]) -> str:
        """Return `text` with each match replaced by `new(match)`."""
        pieces, at = [], 0
        for begin, end in self.all(text):
            pieces += [text[at:begin], new(text[begin:end])]
            at = end
        return "".join([*pieces, text[at:]])
