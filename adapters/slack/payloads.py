"""Slack's message objects, as far as they matter here.

In: JSON as it came, from an event, an interaction or a channel's history; nothing in it is taken for granted. Out: a
Message, or None for what is no message that somebody wrote.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slack_sdk.web.async_slack_response import AsyncSlackResponse

Raw = Mapping[str, Any]
"""A JSON object of Slack's. Any: whatever JSON holds."""

USER_SUBTYPES = ("", "file_share", "thread_broadcast", "me_message", "bot_message")
"""The subtypes of messages that somebody wrote; all others tell that somebody joined, pinned and so on."""


@dataclass(frozen=True, slots=True)
class SlackFile:
    """A file of a message. `kind` is its media type, `size` is in bytes; `elsewhere`: not Slack but another service has
    it. Without a `url` Slack has to be asked for it."""

    id: str
    name: str
    media_type: str
    size: int
    url: str
    external: bool
    deleted: bool


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """What somebody wrote, with Slack's mark-up in `text`. `ts` is its id and time, `thread` the ts of its thread's
    first message, '' in none. `user` is '' and `bot_id` set for some bots. `parent` wrote what the thread starts from.
    `called`: Slack itself says that the bot is mentioned."""

    channel: str
    ts: str
    thread: str
    user: str
    bot_id: str
    bot_name: str
    thread_author: str
    text: str
    mentioned: bool
    files: tuple[SlackFile, ...]

    @property
    def private(self) -> bool:
        """It is a direct message."""
        return is_private(self.channel)

    @property
    def sent_at(self) -> float:
        """When it was written: what Slack orders by. Unix seconds."""
        return float(self.ts)


def is_private(channel: str) -> bool:
    """Whether a channel is between one person and the bot."""
    return channel.startswith("D")


def body_of(answer: AsyncSlackResponse) -> Raw:
    """The JSON of an answer of the Web API, an empty object if it is none."""
    return answer.data if isinstance(answer.data, dict) else {}


def text_of(raw: Raw, name: str) -> str:
    """A string of an object, '' if there is none."""
    value = raw.get(name)
    return value if isinstance(value, str) else ""


def object_of(raw: Raw, name: str) -> Raw:
    """An object in an object, an empty one if there is none."""
    value = raw.get(name)
    return value if isinstance(value, Mapping) else {}


def objects_of(raw: Raw, name: str) -> list[Raw]:
    """The objects of a list in an object."""
    values = raw.get(name)
    return [value for value in values if isinstance(value, Mapping)] if isinstance(values, list) else []


def message_of(raw: Raw, channel: str = "") -> SlackMessage | None:
    """A message that somebody wrote, a person or a bot. `channel`: where it stands, if it does not say so itself."""
    ts, channel = text_of(raw, "ts"), text_of(raw, "channel") or channel
    if text_of(raw, "subtype") not in USER_SUBTYPES or not channel or not _is_timestamp(ts):
        return None
    thread, profile = text_of(raw, "thread_ts"), object_of(raw, "bot_profile")
    return SlackMessage(
        channel=channel,
        ts=ts,
        thread="" if thread == ts else thread,  # Slack says so of a message that a thread starts from
        user=text_of(raw, "user"),
        bot_id=text_of(raw, "bot_id"),
        bot_name=text_of(profile, "name") or text_of(raw, "username"),
        thread_author=text_of(raw, "parent_user_id"),
        text=text_of(raw, "text") or _attachment_text(raw),
        mentioned=text_of(raw, "type") == "app_mention",
        files=tuple(file_of(each) for each in objects_of(raw, "files")),
    )


def file_of(raw: Raw) -> SlackFile:
    """A file object."""
    size, mode = raw.get("size"), text_of(raw, "mode")
    asks = text_of(raw, "file_access") == "check_file_info"
    return SlackFile(
        id=text_of(raw, "id"),
        name=text_of(raw, "name") or text_of(raw, "title") or "a file",
        media_type=text_of(raw, "mimetype"),
        size=size if isinstance(size, int) else 0,
        url="" if asks else text_of(raw, "url_private_download") or text_of(raw, "url_private"),
        external=mode == "external" or raw.get("is_external") is True,
        deleted=mode in ("tombstone", "hidden_by_limit"),
    )


def _attachment_text(raw: Raw) -> str:
    """The text of a message that has all of it in attachments, as those of bots do."""
    attached = objects_of(raw, "attachments")
    return "\n".join(filter(None, (text_of(each, "text") or text_of(each, "fallback") for each in attached)))


def _is_timestamp(ts: str) -> bool:
    whole, _, rest = ts.partition(".")
    return whole.isdecimal() and (not rest or rest.isdecimal()) and len(ts) < 40
