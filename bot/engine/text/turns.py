"""Merges a conversation's turns into messages, and decides which of them a prompt keeps; pure functions."""

from collections.abc import Sequence

from bot.types.messages import Role, Turn

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
