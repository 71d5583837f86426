"""Which turns of a long conversation are kept.

Comes in: what each turn costs, oldest first, and how much there is to spend. Goes out: the index of the first turn
that is kept. Promises: the cut is coarse and does not creep. From one turn of a conversation to the next it stays
where it was until the budget is spent again, so that the beginning of the prompt, and the cache that holds it, can be
reused.

The whole history is walked each time, and the cuts that earlier turns made are made again: the result depends on
nothing but the turns and the budget. It follows that a caller who bounds the history first must do so in coarse steps
too: a window that slides by a turn starts the walk elsewhere each time, and the cut moves with it.
"""

from collections.abc import Sequence

KEPT_SHARE = 0.75
"""A cut goes on until at most this share of the budget is used."""


def first_kept(costs: Sequence[int], user: Sequence[bool], fixed: int, budget: int) -> int:
    """The index of the first turn to keep, always a user's (one that `user` is true for; there must be one).

    costs: tokens of each turn. fixed: tokens of what is never dropped. The last user turn and what follows it are kept
    whatever they cost: whether they fit is for the caller to see.
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
    """The first index at or after `start` that `user` is true for; the length if there is none."""
    return next((index for index in range(start, len(user)) if user[index]), len(user))
