"""What people do on Slack besides writing messages: a command, a button, a menu; pure.

In: the payload of a slash command, of block_actions or of a message shortcut. Out: an Interaction, in which nothing of
the payload is taken for granted.
"""

from dataclasses import dataclass

from adapters.slack.payloads import Raw, object_of, objects_of, text_of


@dataclass(frozen=True, slots=True)
class Interaction:
    """Who did something where. `id` is the same however often Slack tells of it. `thread` is the ts of the first
    message of the thread in which it was done, '' in none. `answers` is the address that takes words for their eyes.
    """

    id: str
    user: str
    channel: str
    thread: str
    response_url: str


def from_command(body: Raw) -> Interaction:
    """A slash command, which cannot be given in a thread."""
    return Interaction(
        id=text_of(body, "trigger_id"),
        user=text_of(body, "user_id"),
        channel=text_of(body, "channel_id"),
        thread="",
        response_url=text_of(body, "response_url"),
    )


def from_element(body: Raw) -> Interaction:
    """A button or a menu entry under a message, or a message shortcut."""
    message, container = object_of(body, "message"), object_of(body, "container")
    channel = text_of(object_of(body, "channel"), "id") or text_of(container, "channel_id")
    ts = text_of(message, "ts") or text_of(container, "message_ts")
    thread = text_of(message, "thread_ts") or text_of(container, "thread_ts")
    return Interaction(
        id=text_of(body, "trigger_id") or f"{ts} {text_of(pressed_element(body), 'action_ts')}",
        user=text_of(object_of(body, "user"), "id"),
        channel=channel,
        thread="" if thread == ts else thread,  # Slack says so of a message that a thread starts from
        response_url=text_of(body, "response_url"),
    )


def pressed_element(body: Raw) -> Raw:
    """The element that was used, an empty object if there is none."""
    actions = objects_of(body, "actions")
    return actions[0] if actions else {}
