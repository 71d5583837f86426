"""Chooses which turns of a long conversation stay in the prompt.

Cuts are coarse: a cut stays in place until the budget is used up again, so that the beginning of the prompt, and the
prefix cache for it, can be reused.

The result depends only on the turns and the budget: each call walks the whole history and repeats the cuts of earlier
turns. A caller that bounds the history first must do so in coarse steps too, because a window that slides by one turn
would move the cut each time.
"""

from collections.abc import Sequence

KEPT_SHARE = 0.75
"""A cut drops turns until at most this share of the budget is used."""


def first_kept(costs: Sequence[int], user: Sequence[bool], fixed: int, budget: int) -> int:
    """Return the index of the first turn to keep, which is always a user turn.

    costs: tokens of each turn, oldest first. user: whether each turn is a user's; at least one must be. fixed: tokens
    that are never dropped. The last user turn and everything after it are kept at any cost: the caller checks whether
    they fit.
    """
    start = question = user.index(True)
    total = fixed
    for index in range(start, len(costs)):
        question = index if user[index] else question
        total += costs[index]
        if total > budget:
            while start < question and (total > budget * KEPT_SHARE or not user[start]):
                total -= costs[start]
                start += 1
    return start


def next_user(user: Sequence[bool], start: int) -> int:
    """Return the first index at or after `start` where `user` is true, or the length if there is none."""
    return next((index for index in range(start, len(user)) if user[index]), len(user))
