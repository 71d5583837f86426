"""Wraps the two fake platforms for the crash test: asks numbered questions, and collects the bot's messages.

`Asked` and `Said` have the same form for both platforms.
"""

from dataclasses import dataclass, replace
from typing import Protocol

from bot.replies.delivery import VOID
from bot.storage import Cursor
from tests.support.builders.discord_adapter import key_of as discord_key
from tests.support.builders.slack_adapter import key_of as slack_key
from tests.support.fakes.discord import Channel, FakeDiscord, Message
from tests.support.fakes.discord.messages import NONCE_MEMORY
from tests.support.fakes.slack_server import Channel as SlackChannel
from tests.support.fakes.slack_server import FakeSlack
from tests.support.fakes.slack_server import Message as SlackMessage

FINISHED = {"Regenerate", "Continue"}
"""A finished answer has one of these buttons."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and the number of words in its expected answer."""

    number: int
    words: int
    place: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Said:
    """A message of the bot, with the text of its files. question: the id of the message that it answers, '' if
    unknown. `finished`: its buttons mark the first part of a finished answer."""

    place: str
    question: str
    text: str
    finished: bool


class PlatformDriver(Protocol):
    """One platform with its people and channels."""

    name: str

    async def ask(self, who: int, where: int, number: int, words: int) -> Asked:
        """Posts a question; `who` and `where` select the person and the channel."""

    def said(self) -> list[Said]:
        """All messages of the bot, in order per channel."""

    def pings(self) -> object:
        """The pings that the bot caused; falsy if there were none."""

    def calls(self) -> int:
        """The number of the bot's API calls."""

    def sessions(self) -> int:
        """The number of the bot's connections."""

    async def begin(self) -> list[Cursor]:
        """Prepares all channels before the bot first connects; their cursors."""


class DiscordDriver:
    """Channels (two, unless more are asked for), a thread and direct messages, with raised rate limits."""

    name = "discord"

    def __init__(self, server: FakeDiscord, channels: int = 2) -> None:
        self.server = server
        self.people = [server.user(name) for name in ("ana", "ben", "cleo")]
        general, random = server.text_channel("general"), server.text_channel("random")
        self.places = [general, random, server.thread(general, "plans"), server.dm(self.people[0])]
        self.places += [server.text_channel(f"channel-{number}") for number in range(3, channels + 1)]
        for call in ("POST", "GET"):
            server.limits.set(f"{call} /channels/{{channel_id}}/messages", 1000, 1.0)
        server.limits.set("PATCH /channels/{channel_id}/messages/{message_id}", 1000, 1.0)

    async def ask(self, who: int, where: int, number: int, words: int) -> Asked:
        channel = self.places[where % len(self.places)]
        person = self.people[0 if channel.person else who % len(self.people)]
        message = await person.says(channel, f"q{number} {words}", mention=channel.person is None)
        return Asked(number, words, channel.id, message.id)

    def said(self) -> list[Said]:
        return [self._as_said(channel, each) for channel in self.places for each in channel.messages]

    def pings(self) -> object:
        return self.server.pings

    def calls(self) -> int:
        return len(self.server.calls)

    def sessions(self) -> int:
        return len(self.server.gateway.identifies) if self.server.gateway.online else 0

    async def begin(self) -> list[Cursor]:
        now = self.server.clock
        return [Cursor(discord_key(channel), now.new_id(), now.now()) for channel in self.places]

    def forget_nonces(self) -> None:
        """Advances the clock past the time for which Discord remembers nonces."""
        self.server.clock.advance(NONCE_MEMORY + 1)

    def _as_said(self, channel: Channel, message: Message) -> Said:
        labels = {str(button.get("label")) for button in message.buttons}
        answered: Message | None = message
        while answered is not None and answered.author is self.server.bot:
            answered = answered.reference
        return Said(channel.id, answered.id if answered else "", _with_files(message), bool(labels & FINISHED))


class SlackDriver:
    """Channels (one, unless more are asked for; a question in one opens a thread), an existing thread in each, and
    direct messages."""

    name = "slack"

    def __init__(self, server: FakeSlack, channels: int = 1) -> None:
        self.server = server
        self.people = [server.user(name) for name in ("ana", "ben", "cleo")]
        self._channels = [server.channel("general")]
        self._channels += [server.channel(f"channel-{number}") for number in range(2, channels + 1)]
        self._direct = server.dm(self.people[0])
        self.places: list[tuple[SlackChannel, str]] = []  # with the thread, '' if a question opens one
        server.limits.scale = 0.01
        server.sockets.scale = 0.2

    async def ask(self, who: int, where: int, number: int, words: int) -> Asked:
        channel, thread = self.places[where % len(self.places)]
        person = self.people[0 if channel.person else who % len(self.people)]
        private = channel.person is not None
        message = await person.says(channel, f"q{number} {words}", mention=not private, thread=thread or None)
        return Asked(number, words, _place(channel, message.thread_ts or ("" if private else message.ts)), message.ts)

    def said(self) -> list[Said]:
        said: list[Said] = []
        for channel in (*self._channels, self._direct):
            for each in channel.messages:
                if each.subtype == "file_share":  # a message of its own that belongs to the latest answer in its place
                    place = _place(channel, each.thread_ts)
                    answer = next(one for one in reversed(said) if one.place == place and one.text != VOID)
                    said[said.index(answer)] = replace(answer, text=f"{answer.text}\n{_with_files(each)}")
                else:
                    said.append(_as_said(channel, each))
        return said

    def pings(self) -> object:
        return self.server.pings + self.server.unfurls

    def calls(self) -> int:
        return len(self.server.calls)

    def sessions(self) -> int:
        return self.server.sockets.opened if self.server.sockets.online else 0

    async def begin(self) -> list[Cursor]:
        now, keys = self.server.clock, [slack_key(self._direct)]
        for channel in self._channels:
            root = await self.people[1].says(channel, "hello")
            self.places += [(channel, ""), (channel, root.ts)]
            keys += [slack_key(channel), slack_key(channel, root)]
        self.places.insert(2, (self._direct, ""))
        return [Cursor(key, now.new_ts(), now.now()) for key in keys]


def _as_said(channel: SlackChannel, message: SlackMessage) -> Said:
    question = str(((message.metadata or {}).get("event_payload") or {}).get("question_id", ""))
    return Said(_place(channel, message.thread_ts), question, message.shown, bool(FINISHED & set(message.labels)))


def _place(channel: SlackChannel, thread: str) -> str:
    return f"{channel.id}/{thread}"


def _with_files(message: Message | SlackMessage) -> str:
    shown = message.content if isinstance(message, Message) else message.shown
    return "\n".join([shown, *(data.decode() for data in message.files.values())])
