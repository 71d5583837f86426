"""Holds and changes the fake's state (users, channels, messages) and emits Socket Mode events for each change.

Callers check the input first. Emits only events that the app is subscribed to and has the scope for. The two events of
one message (`message` and `app_mention`) have different event ids, as on Slack.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.support.fakes.slack import payloads, reading
from tests.support.fakes.slack.clock import Changes, Clock
from tests.support.fakes.slack.state import CHANNEL, IM, Channel, File, Json, Message, Stream, User, Version
from tests.support.fakes.slack.subscriptions import ALL_EVENTS, ALL_SCOPES, message_event, needed


class SlackStore:
    """All state of the fake.

    Socket Mode sets `emit` (event id, event), the assistant's statuses set `spoke` (the bot posted in a thread), the
    server sets `base_url`; `page_limit` is the most messages per page of history.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.changes = Changes(self.picture)
        self.emit: Callable[[str, Json], None] = lambda event_id, event: None
        self.spoke: Callable[[Channel, str], None] = lambda channel, thread_ts: None
        self.base_url = ""
        self.page_limit = 999
        self.events: set[str] = set(ALL_EVENTS)
        self.scopes: set[str] = set(ALL_SCOPES)
        self.users: dict[str, User] = {}
        self.channels: dict[str, Channel] = {}
        self.files: dict[str, File] = {}
        self.bot = User(self.clock.new_id("U"), "inhouse", self.clock.new_id("B"))
        self.users[self.bot.id] = self.bot

    def picture(self) -> str:
        """The last messages of every channel, for the error of a failed wait."""
        lines = []
        for channel in self.channels.values():
            for each in [*channel.history[-8:], *channel.ephemerals[-4:]]:
                place = f"#{channel.name}" + (f" (thread {each.thread_ts})" if each.thread_ts else "")
                only = f" (only {each.to.name} sees it)" if each.to else ""
                lines.append(f"{place}: {each.ts} {each.author.name}{only}: {each.shown!r}")
        return "\n".join(lines) or "(no messages)"

    def new_user(self, name: str, bot: bool = False, admin: bool = False) -> User:
        """Adds a user to the workspace."""
        user = User(self.clock.new_id("U"), name, self.clock.new_id("B") if bot else "", admin)
        self.users[user.id] = user
        return user

    def new_channel(self, name: str, kind: str = CHANNEL, with_bot: bool = True) -> Channel:
        """Adds a channel with all users in it, with or without the bot."""
        channel = Channel(self.clock.new_id("C"), name, kind, self.bot, self.changes)
        channel.created = self.clock.now()
        channel.members = [user for user in self.users.values() if user is not self.bot or with_bot]
        self.channels[channel.id] = channel
        return channel

    def dm(self, user: User) -> Channel:
        """The direct-message channel between a user and the bot."""
        for channel in self.channels.values():
            if channel.person is user:
                return channel
        channel = Channel(self.clock.new_id("D"), f"dm with {user.name}", IM, self.bot, self.changes, user)
        channel.members, channel.created = [user, self.bot], self.clock.now()
        self.channels[channel.id] = channel
        return channel

    def add(
        self,
        channel: Channel,
        author: User,
        text: str,
        *,
        blocks: Sequence[Json] = (),
        thread_ts: str = "",
        subtype: str = "",
        files: Sequence[File] = (),
        metadata: Json | None = None,
        to: User | None = None,
        unfurls: tuple[str, ...] = (),
        stream: Stream | None = None,
        extra: Json | None = None,
        quiet: bool = False,
    ) -> Message:
        """Adds a message; emits no event if it is `quiet` or ephemeral."""
        message = Message(self.clock.new_ts(), channel, author, [], thread_ts, subtype, to, metadata, list(files))
        message.stream, message.extra = stream, extra or {}
        chunks = stream.chunks if stream is not None else []
        found = reading.mentions(text, list(blocks), chunks)
        message.versions.append(Version(text, self.clock.now(), list(blocks), found, unfurls))
        for file in files:
            file.shared = True
        (channel.ephemerals if to is not None else channel.everything).append(message)
        if to is None and not quiet:
            self.tell_message(message)
        self.changes.tell()
        return message

    def change(self, message: Message, version: Version, edited: bool = True) -> None:
        """Adds a version to a message. Without `edited` it is Slack's own change (an unfurl) or the end of a stream."""
        before = payloads.message(message, self.base_url)
        message.versions.append(replace(version, edited=edited or message.versions[-1].edited))
        if edited:
            message.edited_ts = f"{int(self.clock.now())}.000000"
        self.tell_change(message, before)
        if edited and not message.author.bot_id and self.bot.mention in message.text and message.channel.kind != IM:
            self.tell(self._shaped(message) | {"type": "app_mention", "event_ts": self.clock.new_ts()})

    def delete(self, message: Message) -> None:
        """Deletes a message; one with a thread becomes a tombstone, which Slack reports as a change."""
        before = payloads.message(message, self.base_url)
        channel = message.channel
        if message.thread_ts in ("", message.ts) and channel.replies(message.ts):
            message.subtype, message.thread_ts, message.files_ = "tombstone", message.ts, []
            self.tell_change(message, before)
            return
        message.deleted = True
        if message.to is not None:
            channel.ephemerals.remove(message)
        else:
            self.tell(self._about(message, "message_deleted") | {"deleted_ts": message.ts, "previous_message": before})
        first = channel.find(message.thread_ts) if message.thread_ts else None
        if first is not None and first.tombstone and not channel.replies(first.ts):
            before = payloads.message(first, self.base_url)
            first.deleted = True
            self.tell(self._about(first, "message_deleted") | {"deleted_ts": first.ts, "previous_message": before})
        self.changes.tell()

    def react(self, message: Message, user: User, name: str, gone: bool = False) -> None:
        """Adds or removes a user's reaction."""
        people = message.reactions.setdefault(name, [])
        if gone:
            people.remove(user.id)
            if not people:
                del message.reactions[name]
        else:
            people.append(user.id)
        item = {"type": "message", "channel": message.channel.id, "ts": message.ts}
        event: Json = {"type": "reaction_removed" if gone else "reaction_added", "user": user.id, "reaction": name}
        self.tell(event | {"item": item, "item_user": message.author.id, "event_ts": self.clock.new_ts()})

    def tell_message(self, message: Message) -> None:
        """Emits the event of a new message, and a second one if it mentions the bot in a channel."""
        event = self._shaped(message) | {"event_ts": message.ts}
        if message.channel.kind != IM and self.bot.mention in message.text and not message.author.bot_id:
            self.tell({**event, "type": "app_mention"})
        self.tell(event | {"channel_type": message.channel.kind})

    def tell_change(self, message: Message, before: Json) -> None:
        """Emits the event of a changed message."""
        if message.to is None:
            now = payloads.message(message, self.base_url)
            self.tell(self._about(message, "message_changed") | {"message": now, "previous_message": before})
        self.changes.tell()

    def tell(self, event: Json) -> None:
        """Emits an event if the app is subscribed to it, has its scopes, and the bot sees its channel."""
        name = message_event(event) if event["type"] == "message" else event["type"]
        where = self.channels.get(str(event.get("channel", "")))
        hidden = where is not None and not where.has_bot and event["type"] != "app_mention"
        if name in self.events and needed(name) <= self.scopes and not hidden:
            self.emit(self.clock.new_id("Ev"), event)
        self.changes.tell()

    def _shaped(self, message: Message) -> Json:
        return payloads.message(message, self.base_url) | {"channel": message.channel.id}

    def _about(self, message: Message, subtype: str) -> Json:
        now = self.clock.new_ts()
        told: Json = {"type": "message", "subtype": subtype, "hidden": True, "channel": message.channel.id}
        return told | {"ts": now, "event_ts": now, "channel_type": message.channel.kind}
