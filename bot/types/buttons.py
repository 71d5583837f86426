"""Encodes button actions as platform ids and parses them; an id holds its action, so buttons outlast a restart."""

from dataclasses import dataclass

from bot.types.messages import ActionKind, Reply

PREFIX = "ih"


@dataclass(frozen=True, slots=True)
class Button:
    """A parsed button id."""

    kind: ActionKind
    reply_id: str
    request_id: str


def button_id(kind: str, reply: Reply) -> str:
    """Return `ih:stop:<reply_id>:<request_id>`, at most 100 characters. Kinds outside ActionKind do nothing."""
    return f"{PREFIX}:{kind}:{reply.reply_id}:{reply.request_id}"


def parse_button_id(text: str) -> Button | None:
    """Parse a button id; None if it is not one of ours."""
    prefix, *parts = text.split(":")
    if prefix != PREFIX or len(parts) != 3:
        return None
    try:
        return Button(ActionKind(parts[0]), parts[1], parts[2])
    except ValueError:  # written by a later version
        return None
