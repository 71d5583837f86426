"""Guesses at what an answer says next, taken from what it or its prompt said before: quotes, code, lists.

In: the ids so far. Out: some that may follow, since they followed the same three ids last time. A step that checks a
few guesses of one answer takes hardly longer than one without (bench/RESULTS.md), and a wrong one costs nothing else.
"""

from collections.abc import Sequence

LENGTH = 3
"""Ids that must be the same."""
FEWEST = 12
"""Guesses that are made before it is judged whether they are any good."""
GOOD = 0.25
"""The share of them that must have been right for more to be made."""


class Lookup:
    """The guesses of one answer."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._known = LENGTH
        self._made = self._right = 0

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """At most so many ids that may follow."""
        for place in range(self._known, len(ids)):
            self._after[tuple(ids[place - LENGTH : place])] = place
        self._known = max(self._known, len(ids))
        place = self._after.get(tuple(ids[-LENGTH:]), len(ids))
        if self._made >= FEWEST and self._right < GOOD * self._made:
            return []
        return list(ids[place : place + most])

    def learn(self, made: int, right: int) -> None:
        """So many were made, and the first so many of them were right."""
        self._made += made
        self._right += right
