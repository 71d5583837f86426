"""Merges a conversation's turns into messages, and decides which of them a prompt keeps; pure functions."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile

from bot.types.messages import Picture, Role, Turn

BETWEEN = "\n\n"
"""Separator between merged turns of one role."""

KEPT_SHARE = 0.75
"""A cut of the history drops turns until at most this share of the budget is used."""


def named(turn: Turn) -> str:
    """Return a turn's text, after its author's name if a person wrote it."""
    name = " ".join(turn.author.split())
    text = turn.text.strip()
    return f"{name}: {text}" if name and turn.role is not Role.ASSISTANT else text


def merged_texts(turns: Sequence[Turn]) -> list[str]:
    """Return the texts of turns, beginning with a user's, with adjacent turns of one role merged.

    Author names precede the texts if two or more people take part.
    """
    people = {turn.author for turn in turns if turn.role is not Role.ASSISTANT and turn.author}
    said: list[list[str]] = []
    assistant = True
    for turn in turns:
        if assistant is not (turn.role is Role.ASSISTANT):
            assistant = not assistant
            said.append([])
        said[-1].append(named(turn) if len(people) > 1 else turn.text.strip())
    return [BETWEEN.join(texts) for texts in said]


def merged_pictures(turns: Sequence[Turn]) -> list[tuple[Picture, ...]]:
    """Return the pictures of turns, merged as their texts are by `merged_texts`."""
    shown: list[tuple[Picture, ...]] = []
    assistant = True
    for turn in turns:
        if assistant is not (turn.role is Role.ASSISTANT):
            assistant = not assistant
            shown.append(())
        shown[-1] += turn.pictures
    return shown


def fit_pictures(
    turns: Sequence[Turn], costs: Sequence[int], fixed: int, budget: int, cost_of: Callable[[Picture], int]
) -> tuple[list[Turn], list[int], int]:
    """Drop the oldest pictures if not everything fits: old ones have half of the budget, the question's what it leaves.

    Returns the turns, their costs with the pictures that are kept, and the number of dropped pictures. costs, fixed,
    budget: as for `first_kept`.
    """
    asked = len(turns) - len(list(takewhile(lambda turn: turn.role is not Role.ASSISTANT, reversed(turns))))
    own_room = budget - fixed - sum(costs[asked:])
    everything = fixed + sum(costs) + sum(cost_of(picture) for turn in turns for picture in turn.pictures) <= budget
    kept, totals, spent, dropped = list(turns), list(costs), 0, 0
    for index in reversed(range(len(turns))):
        shown: tuple[Picture, ...] = ()
        for picture in reversed(turns[index].pictures):
            cost, room = cost_of(picture), own_room if index >= asked else budget // 2
            if dropped or (not everything and spent + cost > room):
                dropped += 1
                continue
            shown, spent = (picture, *shown), spent + cost
            totals[index] += cost
        kept[index] = replace(turns[index], pictures=shown)
    return kept, totals, dropped


def first_kept(costs: Sequence[int], user: Sequence[bool], fixed: int, budget: int) -> int:
    """Return the index of the first turn of a long conversation that stays in the prompt; always a user turn.

    A cut stays in place until the budget is used up again, so that the beginning of the prompt, and with it the prefix
    cache, can be reused. The result depends only on the arguments: each call repeats the earlier cuts. A caller
    that bounds the history first must do so in coarse steps, too: a window that slides would move the cut each time.

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
