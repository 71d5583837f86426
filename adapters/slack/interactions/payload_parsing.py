"""Parses the payloads of slash commands, block actions and message shortcuts."""

from dataclasses import dataclass

from adapters.slack.payloads import Raw, object_of, objects_of, text_of


@dataclass(frozen=True, slots=True)
class Interaction:
    """Who did something where.

    `id` is the same for each delivery. `thread` is the ts of the thread's first message, '' outside of threads.
    `response_url` takes ephemeral answers.
    """

    id: str
    user: str
    channel: str
    thread: str
    response_url: str


def from_command(body: Raw) -> Interaction:
    """A slash command, which has no thread."""
    return Interaction(
        id=text_of(body, "trigger_id"),
        user=text_of(body, "user_id"),
        channel=text_of(body, "channel_id"),
        thread="",
        response_url=text_of(body, "response_url"),
    )


def from_element(body: Raw) -> Interaction:
    """A block action under a message, or a message shortcut."""
    message, container = object_of(body, "message"), object_of(body, "container")
    channel = text_of(object_of(body, "channel"), "id") or text_of(container, "channel_id")
    ts = text_of(message, "ts") or text_of(container, "message_ts")
    thread = text_of(message, "thread_ts") or text_of(container, "thread_ts")
    return Interaction(
        id=text_of(body, "trigger_id") or f"{ts} {text_of(pressed_element(body), 'action_ts')}",
        user=text_of(object_of(body, "user"), "id"),
        channel=channel,
        thread="" if thread == ts else thread,  # Slack sets it on the first message of a thread, too
        response_url=text_of(body, "response_url"),
    )


def pressed_element(body: Raw) -> Raw:
    """The element that was used, empty if there is none."""
    actions = objects_of(body, "actions")
    return actions[0] if actions else {}
