"""Data classes of the fake Slack: users, channels, messages, files.

Ids and timestamps are strings, as on the wire; times are Unix seconds. `Channel.messages` are only the bot's own;
`history` has all authors'.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.fakes.slack import reading
from tests.support.fakes.slack.clock import Changes

Json = dict[str, Any]
"""A JSON object of Slack's payloads."""

STREAM_LIFE = 300.0
"""Seconds after its start at which Slack closes a stream."""
CHANNEL, GROUP, IM = "channel", "group", "im"


@dataclass(eq=False)
class User:
    """A user account; `bot_id` is set for bots."""

    id: str
    name: str
    bot_id: str = ""
    admin: bool = False
    deleted: bool = False
    guest: bool = False
    team: str = ""  # of people of another workspace (Slack Connect)

    @property
    def mention(self) -> str:
        """The markup that mentions the user."""
        return f"<@{self.id}>"


@dataclass(eq=False)
class File:
    """A user's file."""

    id: str
    name: str
    data: bytes
    mimetype: str
    user: User
    created: float
    title: str = ""
    shared: bool = False
    deleted: bool = False


@dataclass
class Version:
    """The content of a message from `at` on; the first version is the post, later ones are changes.

    `posted` are the blocks as sent, `pings` the unescaped mentions in them, `unfurls` the links that Slack would have
    fetched.
    """

    text: str
    at: float
    posted: list[Json] = field(default_factory=list)
    pings: tuple[str, ...] = ()
    unfurls: tuple[str, ...] = ()
    edited: bool = False


@dataclass(eq=False)
class Stream:
    """A message's native stream of `chunks`; `stopped_by` is app, user or slack, '' while it runs."""

    began: float
    recipient: str
    chunks: list[Json] = field(default_factory=list)
    stopped_by: str = ""
    broken: bool = False

    @property
    def text(self) -> str:
        """The whole text so far."""
        return "".join(str(chunk.get("text", "")) for chunk in self.chunks if chunk.get("type") == "markdown_text")

    @property
    def blocks(self) -> list[Json]:
        """The stream as blocks; adjacent texts are one markdown block."""
        shown: list[Json] = []
        for chunk in self.chunks:
            if chunk.get("type") == "blocks":
                shown += chunk["blocks"]
            elif chunk.get("type") == "markdown_text" and chunk["text"]:
                if shown and shown[-1]["type"] == "markdown":
                    shown[-1] = {"type": "markdown", "text": shown[-1]["text"] + chunk["text"]}
                else:
                    shown.append({"type": "markdown", "text": chunk["text"]})
        return shown


@dataclass(eq=False, repr=False)
class Message:
    """A message with all its versions."""

    ts: str
    channel: "Channel"
    author: User
    versions: list[Version]
    thread_ts: str = ""
    subtype: str = ""
    to: User | None = None
    metadata: Json | None = None
    files_: list[File] = field(default_factory=list)
    reactions: dict[str, list[str]] = field(default_factory=dict)
    extra: Json = field(default_factory=dict)
    stream: Stream | None = None
    edited_ts: str = ""
    deleted: bool = False

    def __repr__(self) -> str:
        return f"<{self.author.name} in {self.channel.name} at {self.ts}: {self.shown!r}>"

    @property
    def id(self) -> str:
        """The ts, under the name that other platforms use."""
        return self.ts

    @property
    def text(self) -> str:
        """The text field as sent; for a stream its whole text."""
        last = self.versions[-1]
        return self.stream.text if self.stream is not None and not last.edited else last.text

    @property
    def blocks(self) -> list[Json]:
        """The current blocks, as sent."""
        streamed = self.stream.blocks if self.stream is not None and not self.versions[-1].edited else []
        return [*streamed, *self.versions[-1].posted]

    @property
    def shown(self) -> str:
        """The visible text: of the blocks, else of the text field, with entities decoded outside links."""
        return reading.shown(self.blocks, self.text)

    @property
    def buttons(self) -> list[Json]:
        """The current interactive elements, as sent."""
        return reading.elements(self.blocks)

    @property
    def labels(self) -> list[str]:
        """The labels of the buttons."""
        return [str((each.get("text") or {}).get("text", "")) for each in self.buttons if each["type"] == "button"]

    @property
    def files(self) -> dict[str, bytes]:
        """The attached files, by name."""
        return {file.name: file.data for file in self.files_}

    @property
    def pings(self) -> tuple[str, ...]:
        """All unescaped mentions of any version."""
        return tuple(ping for version in self.versions for ping in version.pings)

    @property
    def unfurls(self) -> tuple[str, ...]:
        """All links that Slack would have fetched for any version."""
        return tuple(link for version in self.versions for link in version.unfurls)

    @property
    def ephemeral(self) -> bool:
        """Whether only one user sees it."""
        return self.to is not None

    @property
    def streaming(self) -> bool:
        """Whether it has a native stream that is not stopped."""
        return self.stream is not None and not self.stream.stopped_by

    def stream_closed(self, now: float) -> bool:
        """Whether the stream was stopped, or Slack closed it five minutes after its start."""
        return self.stream is None or bool(self.stream.stopped_by) or now - self.stream.began >= STREAM_LIFE

    @property
    def tombstone(self) -> bool:
        """Deleted while it had a thread: Slack shows 'This message was deleted.'."""
        return self.subtype == "tombstone"


@dataclass(eq=False, repr=False)
class Channel:
    """A public channel, a private one (group) or a direct-message channel (`person` is the other user)."""

    id: str
    name: str
    kind: str
    bot: User
    changes: Changes
    person: User | None = None
    members: list[User] = field(default_factory=list)
    everything: list[Message] = field(default_factory=list)
    ephemerals: list[Message] = field(default_factory=list)
    created: float = 0.0
    archived: bool = False
    read_only: bool = False
    deleted: bool = False

    def __repr__(self) -> str:
        return f"<#{self.name}: {len(self.history)} messages>"

    @property
    def mention(self) -> str:
        """The markup that links the channel."""
        return f"<#{self.id}>"

    @property
    def has_bot(self) -> bool:
        """Whether the bot is a member."""
        return self.bot in self.members

    @property
    def history(self) -> list[Message]:
        """All messages that are not deleted, threads included, oldest first."""
        return [message for message in self.everything if not message.deleted]

    @property
    def messages(self) -> list[Message]:
        """The bot's messages that are not deleted, threads included, oldest first."""
        return [each for each in self.history if each.author is self.bot and each.subtype != "assistant_app_thread"]

    def replies(self, thread: "str | Message") -> list[Message]:
        """A thread's replies without its first message, oldest first."""
        ts = thread if isinstance(thread, str) else thread.thread_ts or thread.ts
        return [message for message in self.history if message.thread_ts == ts and message.ts != ts]

    def find(self, ts: str) -> Message | None:
        """The message with a ts, None if missing or deleted."""
        return next((message for message in self.history if message.ts == ts), None)

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:  # noqa: ASYNC109 -- reads well
        """Waits until `condition()` is true. Raises AssertionError after `timeout` seconds."""
        await self.changes.until(condition, timeout)
