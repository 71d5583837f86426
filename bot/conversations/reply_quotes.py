"""Shows the model which earlier message a turn replies to; pure.

The quotes are made for each prompt from what is stored, so that deleted and edited messages are deleted and edited in
them, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bot.storage import StoredTurn
from bot.types.display_names import one_line
from bot.types.messages import Role

DELETED = "[a deleted message]"
"""Stands for a question without text whose target was deleted."""
MAX_CHAIN = 3
"""Maximum number of messages in a chain of replies that are quoted before a turn."""
MAX_QUOTE_CHARS = 1000
"""Maximum length of one quoted message."""


def with_quotes(turns: Sequence[StoredTurn], targets: Mapping[str, StoredTurn]) -> list[StoredTurn]:
    """Quote what each turn replies to, unless that is the turn right before it.

    `targets`: stored turns by the platform id of their message, which for an answer is not the turn's `message_id`. A
    turn without text asks what it replies to: it becomes a copy of that turn, with its id.
    """
    result: list[StoredTurn] = []
    for turn in turns:
        target = targets.get(turn.reply_to)
        before = result[-1] if result else None
        if target is None:
            result.append(turn if turn.text else replace(turn, text=DELETED))
        elif not turn.text:
            if before and _is_same(before, target):
                result.pop()
            result.append(replace(turn, id=target.id, author=target.author, text=target.text))
        else:
            quotes = _quotes(turn, before, targets)
            result.append(replace(turn, text="\n\n".join([*quotes, turn.text])))
    return result


def _quotes(turn: StoredTurn, before: StoredTurn | None, targets: Mapping[str, StoredTurn]) -> list[str]:
    """The quotes for a turn, the beginning of its chain first."""
    chain: list[StoredTurn] = []
    target = targets.get(turn.reply_to)
    while target and len(chain) < MAX_CHAIN and not (before and _is_same(before, target)):
        chain.insert(0, target)
        target = targets.get(target.reply_to)
    return [_quote(each, "replied" if number else "wrote") for number, each in enumerate(chain)]


def _quote(target: StoredTurn, verb: str) -> str:
    name = "you" if target.role is Role.ASSISTANT else one_line(target.author)
    text = target.text if len(target.text) <= MAX_QUOTE_CHARS else f"{target.text[: MAX_QUOTE_CHARS - 1]}…"
    return "\n".join([f"[{name} {verb}]", *(f"> {line}" for line in text.splitlines())])


def _is_same(one: StoredTurn, other: StoredTurn) -> bool:
    return one.role is other.role and one.message_id == other.message_id
