"""Parses Slack's messages, files and interactions; nothing in the JSON is taken for granted."""

from dataclasses import dataclass

from adapters.slack.json_fields import Raw, object_of, objects_of, text_of
from adapters.slack.message_content import attached_text, shown_text

USER_SUBTYPES = ("", "file_share", "thread_broadcast", "me_message", "bot_message")
"""The subtypes of messages that people and bots write; all others announce members, pins and so on."""


@dataclass(frozen=True, slots=True)
class SlackFile:
    """A file of a message, `size` in bytes. `external`: stored elsewhere. Without `url` it must be asked for."""

    id: str
    name: str
    media_type: str
    size: int
    url: str
    external: bool
    deleted: bool


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """A message of a person or a bot. `text` and `attached`: what it shows, with Slack's `<...>` and entities.

    `ts` is its id and time. `thread` is the ts of its thread's first message, '' outside of threads, and
    `thread_author` wrote that message. `user` is '' for some bots. `user_name` and `team` are sent for people of other
    workspaces (Slack Connect). `mentioned`: it came as an app_mention event. `edited_at`: Unix seconds, 0 if never.
    """

    channel: str
    ts: str
    thread: str
    user: str
    user_name: str
    team: str
    bot_id: str
    app_id: str
    bot_name: str
    thread_author: str
    text: str
    attached: str
    mentioned: bool
    edited_at: float
    files: tuple[SlackFile, ...]

    @property
    def content(self) -> str:
        """The text, the blocks and the attachments."""
        return "\n\n".join(filter(None, (self.text, self.attached)))

    @property
    def private(self) -> bool:
        """Whether it is a direct message."""
        return is_private(self.channel)

    @property
    def sent_at(self) -> float:
        """When it was written, which is what Slack orders by. Unix seconds."""
        return float(self.ts)


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


def is_private(channel: str) -> bool:
    """Whether a channel is a direct conversation with the bot."""
    return channel.startswith("D")


def message_of(raw: Raw, channel: str = "") -> SlackMessage | None:
    """The message of a person or a bot, None for anything else. `channel`: where it is, if the object does not say."""
    ts, channel = text_of(raw, "ts"), text_of(raw, "channel") or channel
    if text_of(raw, "subtype") not in USER_SUBTYPES or not channel or not _is_timestamp(ts):
        return None
    thread, profile = text_of(raw, "thread_ts"), object_of(raw, "bot_profile")
    user = object_of(raw, "user_profile")
    text = shown_text(raw)
    files = [file for source in (raw, *objects_of(raw, "attachments")) for file in objects_of(source, "files")]
    return SlackMessage(
        channel=channel,
        ts=ts,
        thread="" if thread == ts else thread,  # Slack sets it on the first message of a thread, too
        user=text_of(raw, "user"),
        user_name=text_of(user, "display_name") or text_of(user, "real_name") or text_of(user, "name"),
        team=text_of(raw, "user_team") or text_of(raw, "source_team") or text_of(user, "team"),
        bot_id=text_of(raw, "bot_id"),
        app_id=text_of(raw, "app_id") or text_of(profile, "app_id"),
        bot_name=text_of(profile, "name") or text_of(raw, "username"),
        thread_author=text_of(raw, "parent_user_id"),
        text=text,
        attached=attached_text(raw, text),
        mentioned=text_of(raw, "type") == "app_mention",
        edited_at=seconds_of(text_of(object_of(raw, "edited"), "ts")),
        files=tuple(map(file_of, files)),
    )


def file_of(raw: Raw) -> SlackFile:
    """Parse a file object."""
    size, mode = raw.get("size"), text_of(raw, "mode")
    needs_lookup = text_of(raw, "file_access") == "check_file_info"
    return SlackFile(
        id=text_of(raw, "id"),
        name=text_of(raw, "name") or text_of(raw, "title") or "a file",
        media_type=text_of(raw, "mimetype"),
        size=size if isinstance(size, int) else 0,
        url="" if needs_lookup else text_of(raw, "url_private_download") or text_of(raw, "url_private"),
        external=mode == "external" or raw.get("is_external") is True,
        deleted=mode in ("tombstone", "hidden_by_limit"),
    )


def interaction_of_command(body: Raw) -> Interaction:
    """A slash command, which has no thread."""
    return Interaction(
        id=text_of(body, "trigger_id"),
        user=text_of(body, "user_id"),
        channel=text_of(body, "channel_id"),
        thread="",
        response_url=text_of(body, "response_url"),
    )


def interaction_of_element(body: Raw) -> Interaction:
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


def seconds_of(ts: str) -> float:
    """A timestamp as Unix seconds, 0 if it is none."""
    return float(ts) if _is_timestamp(ts) else 0.0


def _is_timestamp(ts: str) -> bool:
    whole, _, rest = ts.partition(".")
    return whole.isdecimal() and (not rest or rest.isdecimal()) and len(ts) < 40
