"""Proposes draft tokens for one answer by prompt lookup (n-gram speculation)."""

from collections.abc import Sequence

NGRAM = 3
"""Ids that must match."""
MIN_PROPOSED = 12
"""Draft tokens proposed before their acceptance rate counts."""
MIN_ACCEPTANCE = 0.25
"""Least acceptance rate at which more draft tokens are proposed."""


class PromptLookup:
    """Proposes draft tokens for one answer by prompt lookup: the ids that followed the same three ids last time.

    Works well for quotes, code and lists. A step that checks a few draft tokens takes hardly longer than one
    without (docs/measurements.md), and a rejected one costs nothing else.
    """

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._known = NGRAM
        self._proposed = self._accepted = 0

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Return at most `most` draft tokens that may follow `ids`."""
        for place in range(self._known, len(ids)):
            self._after[tuple(ids[place - NGRAM : place])] = place
        self._known = max(self._known, len(ids))
        place = self._after.get(tuple(ids[-NGRAM:]), len(ids))
        if self._proposed >= MIN_PROPOSED and self._accepted < MIN_ACCEPTANCE * self._proposed:
            return []
        return list(ids[place : place + most])

    def learn(self, made: int, right: int) -> None:
        """Record that `made` draft tokens were checked and the first `right` of them accepted."""
        self._proposed += made
        self._accepted += right
