"""What exists on the fake Discord: people, roles, servers, channels and messages. Data and what can be read off it.

Ids are strings, times Unix seconds. `Channel.messages` are the bot's own, because tests are about those; `history` is
everybody's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.fakes.discord.bits import ALL_PERMISSIONS, Can
from tests.support.fakes.discord.clock import Changes
from tests.support.fakes.discord.pings import NO_PINGS, Pings

Json = dict[str, Any]
"""A JSON object: what Discord's payloads are made of."""

SUPPRESS_EMBEDS = 1 << 2
EPHEMERAL = 1 << 6
LOADING = 1 << 7
SUPPRESS_NOTIFICATIONS = 1 << 12

TEXT, DM, PUBLIC_THREAD = 0, 1, 11


@dataclass(eq=False)
class User:
    """Somebody with an account."""

    id: str
    name: str
    bot: bool = False

    @property
    def mention(self) -> str:
        """What a text that mentions them contains."""
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
        """What a text that mentions the role contains."""
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
        """What somebody may do in this server, before any channel's exceptions."""
        roles = [self.roles[self.id], *(self.roles[each] for each in self.has.get(user.id, ()))]
        granted = Can.NOTHING
        for role in roles:
            granted |= role.can
        return ALL_PERMISSIONS if user is self.owner or granted & Can.ADMINISTRATOR else granted


@dataclass
class Version:
    """What a message showed from `at` on; the first one is the post, each further one an edit."""

    content: str
    at: float
    pings: Pings = NO_PINGS
    previews: tuple[str, ...] = ()
    embeds: list[Json] = field(default_factory=list)
    components: list[Json] = field(default_factory=list)
    allowed_mentions: Json | None = None


@dataclass
class File:
    """A file that belongs to a message."""

    id: str
    name: str
    data: bytes
    content_type: str


@dataclass(eq=False, repr=False)
class Message:
    """A message with all that it ever showed."""

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

    def __repr__(self) -> str:
        return f"<{self.author.name} in {self.channel.name}: {self.content!r}>"

    @property
    def content(self) -> str:
        """The text that is shown now."""
        return self.versions[-1].content

    @property
    def embeds(self) -> list[Json]:
        """The embeds that are shown now."""
        return self.versions[-1].embeds

    @property
    def buttons(self) -> list[Json]:
        """The buttons that are shown now, as Discord got them (label, custom_id, disabled...)."""
        return [button for row in self.versions[-1].components for button in row["components"]]

    @property
    def files(self) -> dict[str, bytes]:
        """The attached files, by name."""
        return {file.name: file.data for file in self.attachments}

    @property
    def pings(self) -> Pings:
        """Everybody that the post or any edit of it would have notified."""
        total = NO_PINGS
        for version in self.versions:
            total |= version.pings
        return total

    @property
    def previews(self) -> tuple[str, ...]:
        """Every link for which a preview would have been made at some time."""
        return tuple(link for version in self.versions for link in version.previews)

    @property
    def ephemeral(self) -> bool:
        """Only one person sees it."""
        return bool(self.flags & EPHEMERAL)


@dataclass(eq=False, repr=False)
class Channel:
    """A text channel, a thread (`parent` is its channel) or a direct-message channel (`person` is the other side)."""

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
        """What a text that links the channel contains."""
        return f"<#{self.id}>"

    @property
    def in_guild(self) -> bool:
        """It belongs to a server: it is no direct-message channel."""
        return self.guild is not None

    @property
    def history(self) -> list[Message]:
        """Everybody's messages that are still there, oldest first."""
        return [message for message in self.everything if not message.deleted]

    @property
    def messages(self) -> list[Message]:
        """The bot's messages that are still there, oldest first."""
        return [message for message in self.history if message.author is self.bot]

    def can(self, user: User) -> Can:
        """What somebody may do here, exceptions of the channel (or the thread's channel) included."""
        if self.guild is None:
            return ALL_PERMISSIONS
        granted = self.guild.can(user)
        if granted == ALL_PERMISSIONS:
            return granted
        allow, deny = (self.parent or self).exceptions.get(user.id, (Can.NOTHING, Can.NOTHING))
        return granted & ~deny | allow

    def deny(self, can: Can, user: User | None = None) -> None:
        """Take a permission from somebody (the bot) here."""
        allowed, denied = self.exceptions.get((user or self.bot).id, (Can.NOTHING, Can.NOTHING))
        self.exceptions[(user or self.bot).id] = (allowed & ~can, denied | can)
        self.changed(self)

    def allow(self, can: Can, user: User | None = None) -> None:
        """Give somebody (the bot) a permission here."""
        allowed, denied = self.exceptions.get((user or self.bot).id, (Can.NOTHING, Can.NOTHING))
        self.exceptions[(user or self.bot).id] = (allowed | can, denied & ~can)
        self.changed(self)

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:  # noqa: ASYNC109 -- reads well
        """Wait until something is true of the fake; fails after `timeout` seconds."""
        await self.changes.until(condition, timeout)
