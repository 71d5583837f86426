"""Data classes of the fake Discord: users, roles, servers, channels and messages.

Ids are strings, times Unix seconds. `Channel.messages` are only the bot's own; `history` has all authors'.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.fakes.discord.bits import ALL_PERMISSIONS, Can
from tests.support.fakes.discord.clock import Changes
from tests.support.fakes.discord.pings import NO_PINGS, Pings

Json = dict[str, Any]
"""A JSON object of Discord's payloads."""

SUPPRESS_EMBEDS = 1 << 2
EPHEMERAL = 1 << 6
LOADING = 1 << 7
SUPPRESS_NOTIFICATIONS = 1 << 12

TEXT, DM, PUBLIC_THREAD = 0, 1, 11


@dataclass(eq=False)
class User:
    """A user account."""

    id: str
    name: str
    bot: bool = False

    @property
    def mention(self) -> str:
        """The markup that mentions the user."""
        return f"<@{self.id}>"


@dataclass(eq=False)
class Role:
    """A role of one server."""

    id: str
    name: str
    can: Can = Can.NOTHING
    mentionable: bool = False

    @property
    def mention(self) -> str:
        """The markup that mentions the role."""
        return f"<@&{self.id}>"


@dataclass(eq=False, repr=False)
class Guild:
    """A server. `members` holds the users by id, `has` their roles' ids; @everyone is the role with the server's id."""

    id: str
    name: str
    owner: User
    roles: dict[str, Role] = field(default_factory=dict)
    members: dict[str, User] = field(default_factory=dict)
    has: dict[str, set[str]] = field(default_factory=dict)

    def can(self, user: User) -> Can:
        """A user's permissions in this server, without channel overwrites."""
        roles = [self.roles[self.id], *(self.roles[each] for each in self.has.get(user.id, ()))]
        granted = Can.NOTHING
        for role in roles:
            granted |= role.can
        return ALL_PERMISSIONS if user is self.owner or granted & Can.ADMINISTRATOR else granted


@dataclass
class Version:
    """The content of a message from `at` on; the first version is the post, later ones are edits."""

    content: str
    at: float
    pings: Pings = NO_PINGS
    previews: tuple[str, ...] = ()
    embeds: list[Json] = field(default_factory=list)
    components: list[Json] = field(default_factory=list)
    allowed_mentions: Json | None = None


@dataclass
class File:
    """A file of a message."""

    id: str
    name: str
    data: bytes
    content_type: str


@dataclass(eq=False, repr=False)
class Message:
    """A message with all its versions."""

    id: str
    channel: "Channel"
    author: User
    created_at: float
    versions: list[Version]
    kind: int = 0
    flags: int = 0
    nonce: str | None = None
    mentions: list[User] = field(default_factory=list)
    mention_roles: list[str] = field(default_factory=list)
    mention_everyone: bool = False
    attachments: list[File] = field(default_factory=list)
    reference: "Message | None" = None
    reference_id: str = ""
    thread: "Channel | None" = None
    reactions: dict[str, set[str]] = field(default_factory=dict)
    interaction: Json | None = None
    edited_at: float | None = None
    deleted: bool = False
    extra: Json = field(default_factory=dict)
    """Further fields of the payload: a webhook's id, a poll, the snapshots of a forwarded message..."""

    def __repr__(self) -> str:
        return f"<{self.author.name} in {self.channel.name}: {self.content!r}>"

    @property
    def content(self) -> str:
        """The current text."""
        return self.versions[-1].content

    @property
    def embeds(self) -> list[Json]:
        """The current embeds."""
        return self.versions[-1].embeds

    @property
    def buttons(self) -> list[Json]:
        """The current buttons in wire format (label, custom_id, disabled...)."""
        return [button for row in self.versions[-1].components for button in row["components"]]

    @property
    def files(self) -> dict[str, bytes]:
        """The attached files, by name."""
        return {file.name: file.data for file in self.attachments}

    @property
    def pings(self) -> Pings:
        """All pings of the post and its edits."""
        total = NO_PINGS
        for version in self.versions:
            total |= version.pings
        return total

    @property
    def previews(self) -> tuple[str, ...]:
        """All links that any version would have unfurled."""
        return tuple(link for version in self.versions for link in version.previews)

    @property
    def ephemeral(self) -> bool:
        """Whether only one user sees it."""
        return bool(self.flags & EPHEMERAL)


@dataclass(eq=False, repr=False)
class Channel:
    """A text channel, a thread (`parent` is its channel) or a direct-message channel (`person` is the other user)."""

    id: str
    name: str
    kind: int
    bot: User
    changes: Changes
    changed: Callable[["Channel"], None]
    guild: Guild | None = None
    parent: "Channel | None" = None
    person: User | None = None
    owner: User | None = None
    exceptions: dict[str, tuple[Can, Can]] = field(default_factory=dict)
    everything: list[Message] = field(default_factory=list)
    typing: list[float] = field(default_factory=list)
    created_at: float = 0.0
    deleted: bool = False

    def __repr__(self) -> str:
        return f"<#{self.name}: {len(self.history)} messages>"

    @property
    def mention(self) -> str:
        """The markup that links the channel."""
        return f"<#{self.id}>"

    @property
    def in_guild(self) -> bool:
        """Whether it belongs to a server: it is no direct-message channel."""
        return self.guild is not None

    @property
    def history(self) -> list[Message]:
        """All messages that are not deleted, oldest first."""
        return [message for message in self.everything if not message.deleted]

    @property
    def messages(self) -> list[Message]:
        """The bot's messages that are not deleted, oldest first."""
        return [message for message in self.history if message.author is self.bot]

    def can(self, user: User) -> Can:
        """A user's permissions here, with the overwrites of the channel (or of the thread's channel)."""
        if self.guild is None:
            return ALL_PERMISSIONS
        granted = self.guild.can(user)
        if granted == ALL_PERMISSIONS:
            return granted
        allow, deny = (self.parent or self).exceptions.get(user.id, (Can.NOTHING, Can.NOTHING))
        return granted & ~deny | allow

    def deny(self, can: Can, user: User | None = None) -> None:
        """Denies a permission here, by default to the bot."""
        allowed, denied = self.exceptions.get((user or self.bot).id, (Can.NOTHING, Can.NOTHING))
        self.exceptions[(user or self.bot).id] = (allowed & ~can, denied | can)
        self.changed(self)

    def allow(self, can: Can, user: User | None = None) -> None:
        """Allows a permission here, by default to the bot."""
        allowed, denied = self.exceptions.get((user or self.bot).id, (Can.NOTHING, Can.NOTHING))
        self.exceptions[(user or self.bot).id] = (allowed | can, denied & ~can)
        self.changed(self)

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:  # noqa: ASYNC109 -- reads well
        """Waits until `condition()` is true. Raises AssertionError after `timeout` seconds."""
        await self.changes.until(condition, timeout)
