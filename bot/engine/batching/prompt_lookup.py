"""Proposes draft tokens by prompt lookup (n-gram speculation): the ids that followed the same three ids last time.

Works well for quotes, code and lists. A step that checks a few draft tokens of one answer takes hardly longer than one
without (docs/measurements.md), and a rejected one costs nothing else.
"""

from collections.abc import Sequence

LENGTH = 3
"""Ids that must match."""
FEWEST = 12
"""Draft tokens proposed before their acceptance rate counts."""
GOOD = 0.25
"""Least acceptance rate at which more draft tokens are proposed."""


class Lookup:
    """Draft tokens for one answer."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._known = LENGTH
        self._made = self._right = 0

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """Return at most `most` draft tokens that may follow `ids`."""
        for place in range(self._known, len(ids)):
            self._after[tuple(ids[place - LENGTH : place])] = place
        self._known = max(self._known, len(ids))
        place = self._after.get(tuple(ids[-LENGTH:]), len(ids))
        if self._made >= FEWEST and self._right < GOOD * self._made:
            return []
        return list(ids[place : place + most])

    def learn(self, made: int, right: int) -> None:
        """Record that `made` draft tokens were checked and the first `right` of them accepted."""
        self._made += made
        self._right += right
