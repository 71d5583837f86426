"""The names of buttons: what one does is in its name, so that it works after a restart. Pure.

In: a kind and the reply that it stands under. Out: a name for the platform to keep, and from it what was pressed.
"""

from dataclasses import dataclass

from bot.types.messages import ActionKind, Reply

PREFIX = "ih"


@dataclass(frozen=True, slots=True)
class Button:
    """What a name says."""

    kind: ActionKind
    reply_id: str
    request_id: str


def button_id(kind: str, reply: Reply) -> str:
    """`ih:stop:<reply_id>:<request_id>`, at most 100 characters. A `kind` that is no ActionKind names no button."""
    return f"{PREFIX}:{kind}:{reply.reply_id}:{reply.request_id}"


def parsed(text: str) -> Button | None:
    """What a name says, or None if it is not one of ours."""
    prefix, *parts = text.split(":")
    if prefix != PREFIX or len(parts) != 3:
        return None
    try:
        return Button(ActionKind(parts[0]), parts[1], parts[2])
    except ValueError:  # of a later version
        return None
