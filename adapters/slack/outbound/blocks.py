"""Builds the blocks and metadata of an answer: a markdown block, and buttons that carry their action in their ids.

A reply is found again in a channel's history by its metadata or its buttons.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from slack_sdk.models.blocks import (
    ActionsBlock,
    Block,
    ButtonElement,
    ContextActionsBlock,
    FeedbackButtonsElement,
    MarkdownBlock,
)
from slack_sdk.models.blocks.basic_components import FeedbackButtonObject

from bot.types.buttons import Button, button_id, parse_button_id
from bot.types.messages import ActionKind, Reply

Json = dict[str, Any]
"""A JSON object. Any: whatever JSON holds."""

FEEDBACK = "feedback"
"""The action of the native feedback element; each thumb carries its own button id as its value."""
REPLY_EVENT, NOTE_EVENT = "inhouse_reply", "inhouse_note"
"""The metadata event types of answers and of notices."""
MAX_FALLBACK = 3900
"""The most characters of the plain text that notifications show; chat.update takes 4,000."""

_BUTTON_STYLES: dict[ActionKind, tuple[str, str | None]] = {
    ActionKind.STOP: ("Stop", "danger"),
    ActionKind.REGENERATE: ("Regenerate", None),
    ActionKind.CONTINUE: ("Continue", "primary"),
    ActionKind.RERUN: ("Answer the edited question", "primary"),
    ActionKind.THOUGHTS: ("Thoughts", None),
    ActionKind.GOOD: ("👍", None),
    ActionKind.BAD: ("👎", None),
}
_THUMBS = (ActionKind.GOOD, ActionKind.BAD)


def answer(reply: Reply, text: str, *, feedback: bool) -> list[Json]:
    """The blocks of a message. `feedback`: the workspace has native feedback buttons."""
    return [_json(MarkdownBlock(text=text)), *buttons(reply, feedback=feedback)]


def buttons(reply: Reply, *, feedback: bool) -> list[Json]:
    """The blocks under the text."""
    native = feedback and all(kind in reply.buttons for kind in _THUMBS)
    plain = [kind for kind in reply.buttons if not (native and kind in _THUMBS)]
    blocks: list[Block] = []
    if plain:
        blocks.append(ActionsBlock(elements=[_button(kind, reply) for kind in plain]))
    if native:
        good, bad = (
            FeedbackButtonObject(text=label, value=button_id(kind, reply), accessibility_label=label)
            for label, kind in (("Good answer", ActionKind.GOOD), ("Bad answer", ActionKind.BAD))
        )
        element = FeedbackButtonsElement(
            action_id=button_id(FEEDBACK, reply), positive_button=good, negative_button=bad
        )
        blocks.append(ContextActionsBlock(elements=[element]))
    return [_json(block) for block in blocks]


def metadata(reply: Reply) -> Json:
    """The metadata of a message of an answer."""
    payload = {
        "reply_id": reply.reply_id,
        "request_id": reply.request_id,
        "part": reply.part,
        "question_id": reply.question_id,
    }
    return {"event_type": REPLY_EVENT, "event_payload": payload}


def note_metadata() -> Json:
    """The metadata of a notice, which tells it from an answer."""
    return {"event_type": NOTE_EVENT, "event_payload": {"note": True}}


def payload_of(message: Mapping[str, Any]) -> Mapping[str, Any]:  # Any: a message of Slack's
    """The payload of a message's metadata, empty if there is none."""
    metadata = message.get("metadata")
    payload = metadata.get("event_payload") if isinstance(metadata, Mapping) else None
    return payload if isinstance(payload, Mapping) else {}


def reply_id_of(message: Mapping[str, Any]) -> str:  # Any: a message of Slack's
    """The reply id of a message, from its metadata or its buttons; '' if it has neither."""
    if reply_id := payload_of(message).get("reply_id"):
        return str(reply_id)
    return next((button.reply_id for button in _buttons_in(message.get("blocks"))), "")


def _buttons_in(blocks: object) -> Iterable[Button]:
    for block in blocks if isinstance(blocks, list) else ():
        for element in block.get("elements") or () if isinstance(block, Mapping) else ():
            found = parse_button_id(str(element.get("action_id") or "")) if isinstance(element, Mapping) else None
            if found:
                yield found


def _button(kind: ActionKind, reply: Reply) -> ButtonElement:
    label, style = _BUTTON_STYLES[kind]
    return ButtonElement(text=label, action_id=button_id(kind, reply), value=reply.reply_id, style=style)


def _json(block: Block) -> Json:
    return dict(block.to_dict())  # validated by the model
