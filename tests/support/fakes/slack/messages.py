"""The methods chat.postMessage, chat.postEphemeral, chat.update, chat.delete, chat.getPermalink and reactions.*.

`checks` has the limits of the parts.
"""

from dataclasses import dataclass

from tests.support.fakes.slack import checks, payloads, reading
from tests.support.fakes.slack.api import Handler
from tests.support.fakes.slack.asks import Ask, SlackError
from tests.support.fakes.slack.state import CHANNEL, Channel, Json, Message, Version
from tests.support.fakes.slack.store import SlackStore


@dataclass(frozen=True)
class Content:
    """The content of a post or an update: text, blocks (None: not given) and metadata."""

    text: str
    blocks: list[Json] | None
    metadata: Json | None
    has_text: bool


def content(ask: Ask) -> Content:
    """Reads and checks the content; markdown_text becomes one markdown block. Raises SlackError no_text if empty."""
    blocks = ask.items("blocks", "invalid_blocks_format")
    attachments = ask.items("attachments", "invalid_attachments")
    text, markdown = ask.text("text"), ask.text("markdown_text")
    if markdown:
        if text or blocks is not None:
            raise SlackError("markdown_text_conflict")
        checks.markdown_text(markdown)
        blocks, text = [{"type": "markdown", "text": markdown}], markdown
    if blocks:
        checks.blocks(blocks)
    metadata = ask.mapping("metadata", "invalid_metadata_format")
    checks.metadata(metadata)
    if not text.strip() and not blocks and not attachments:
        raise SlackError("no_text")
    return Content(text[: checks.MAX_TEXT], blocks, metadata, "text" in ask.arguments or bool(markdown))


def reach(store: SlackStore, channel_id: str, to_write: bool = False) -> Channel:
    """A channel that the bot may read, or write to. Raises SlackError."""
    channel = store.channels.get(channel_id)
    if channel is None or channel.deleted or (channel.kind != CHANNEL and not channel.has_bot):
        raise SlackError("channel_not_found")
    if not channel.has_bot and not (to_write and "chat:write.public" in store.scopes):
        raise SlackError("not_in_channel")
    if to_write and channel.archived:
        raise SlackError("is_archived")
    if to_write and channel.read_only:
        raise SlackError("restricted_action")
    return channel


def thread(channel: Channel, thread_ts: str) -> str:
    """The thread to post in, '' for none. Raises SlackError unless it is the ts of an existing thread's first
    message."""
    if not thread_ts:
        return ""
    first = channel.find(thread_ts)
    if first is None:
        raise SlackError("thread_not_found")
    if first.thread_ts not in ("", first.ts):
        raise SlackError("cannot_reply_to_message")
    return thread_ts


class MessageMethods:
    """The methods about messages."""

    def __init__(self, store: SlackStore) -> None:
        self._store = store

    def methods(self) -> dict[str, Handler]:
        """Method to handler."""
        return {
            "chat.postMessage": self.post,
            "chat.postEphemeral": self.post_ephemeral,
            "chat.update": self.update,
            "chat.delete": self.delete,
            "chat.getPermalink": self.permalink,
            "reactions.add": self.react,
            "reactions.remove": self.unreact,
        }

    def post(self, ask: Ask) -> Json:
        """Posts a message; a user id as channel means the direct message with that user."""
        target = ask.required("channel")
        if target in self._store.users:
            target = self._store.dm(self._store.users[target]).id
        channel = reach(self._store, target, to_write=True)
        said = content(ask)
        parent = thread(channel, ask.text("thread_ts"))
        unfurl = ask.flag("unfurl_links", True) or ask.flag("unfurl_media", True)
        message = self._store.add(
            channel,
            self._store.bot,
            said.text,
            blocks=said.blocks or [],
            thread_ts=parent,
            metadata=said.metadata,
            unfurls=reading.links(said.text, said.blocks or []) if unfurl else (),
        )
        self._store.spoke(channel, parent)
        return {"channel": channel.id, "ts": message.ts, "message": self._shown(message)}

    def post_ephemeral(self, ask: Ask) -> Json:
        """Posts a message that only one user sees and that is in no history."""
        channel = reach(self._store, ask.required("channel"), to_write=True)
        person = self._store.users.get(ask.required("user"))
        if person is None or person not in channel.members:
            raise SlackError("user_not_in_channel")
        said = content(ask)
        parent = thread(channel, ask.text("thread_ts"))
        message = self._store.add(
            channel, self._store.bot, said.text, blocks=said.blocks or [], thread_ts=parent, to=person
        )
        return {"message_ts": message.ts}

    def update(self, ask: Ask) -> Json:
        """Edits a message; text without blocks removes the blocks, blocks without text keep the text."""
        channel = reach(self._store, ask.required("channel"))
        message = self._own(channel, ask.required("ts"), "cant_update_message")
        if message.streaming and not message.stream_closed(self._store.clock.now()):
            raise SlackError("streaming_state_conflict")
        said = content(ask)
        if len(ask.text("text")) > checks.MAX_UPDATE:
            raise SlackError("msg_too_long")
        blocks = said.blocks if said.blocks is not None else ([] if said.has_text else message.blocks)
        text = said.text if said.has_text else message.text
        found = reading.mentions(text, blocks)
        version = Version(text, self._store.clock.now(), blocks, found)
        if said.metadata is not None:
            message.metadata = said.metadata or None
        if message.stream is not None and not message.stream.stopped_by:
            message.stream.stopped_by = "slack"
        self._store.change(message, version)
        return {"channel": channel.id, "ts": message.ts, "text": text, "message": self._shown(message)}

    def delete(self, ask: Ask) -> Json:
        """Deletes a message."""
        channel = reach(self._store, ask.required("channel"))
        message = self._own(channel, ask.required("ts"), "cant_delete_message")
        self._store.delete(message)
        return {"channel": channel.id, "ts": message.ts}

    def permalink(self, ask: Ask) -> Json:
        """The URL of a message."""
        channel = reach(self._store, ask.required("channel"))
        message = channel.find(ask.required("message_ts"))
        if message is None:
            raise SlackError("message_not_found")
        address = f"https://workshop.example/archives/{channel.id}/p{message.ts.replace('.', '')}"
        return {"channel": channel.id, "permalink": address}

    def react(self, ask: Ask) -> Json:
        """Adds the bot's reaction."""
        message, name = self._reacted(ask)
        if self._store.bot.id in message.reactions.get(name, []):
            raise SlackError("already_reacted")
        self._store.react(message, self._store.bot, name)
        return {}

    def unreact(self, ask: Ask) -> Json:
        """Removes the bot's reaction."""
        message, name = self._reacted(ask)
        if self._store.bot.id not in message.reactions.get(name, []):
            raise SlackError("no_reaction")
        self._store.react(message, self._store.bot, name, gone=True)
        return {}

    def _reacted(self, ask: Ask) -> tuple[Message, str]:
        name = ask.required("name")
        if ":" in name or not name.isascii():
            raise SlackError("invalid_name")
        message = reach(self._store, ask.required("channel")).find(ask.required("timestamp"))
        if message is None:
            raise SlackError("message_not_found")
        return message, name

    def _own(self, channel: Channel, ts: str, error: str) -> Message:
        """One of the bot's own messages."""
        message = channel.find(ts)
        if message is None or message.tombstone:
            raise SlackError("message_not_found")
        if message.author is not self._store.bot or message.subtype == "assistant_app_thread":
            raise SlackError(error)
        return message

    def _shown(self, message: Message) -> Json:
        return payloads.message(message, self._store.base_url, metadata=True)
