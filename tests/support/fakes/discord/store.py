"""Holds and changes the fake's state (users, channels, messages) and emits gateway events for each change.

Callers check the input first. An event is a name and a function from a session's intents to the payload, None where the
session did not ask for such events.
"""

from collections.abc import Callable, Sequence

from tests.support.fakes.discord import payloads, pings
from tests.support.fakes.discord.bits import EVERYBODY_CAN, Can, Intents, application_flags
from tests.support.fakes.discord.clock import Changes, Clock
from tests.support.fakes.discord.state import (
    DM,
    EPHEMERAL,
    PUBLIC_THREAD,
    SUPPRESS_EMBEDS,
    TEXT,
    Channel,
    File,
    Guild,
    Json,
    Message,
    Role,
    User,
    Version,
)

Build = Callable[[Intents], Json | None]


class DiscordStore:
    """All state of the fake. The gateway sets `emit`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.changes = Changes(self.picture)
        self.emit: Callable[[str, Build], None] = lambda event, build: None
        self.users: dict[str, User] = {}
        self.guilds: dict[str, Guild] = {}
        self.channels: dict[str, Channel] = {}
        self.everywhere: list[Channel] = []
        self.bot = self.new_user("Inhouse", bot=True)
        self.message_content = True
        self.members = False
        self.elsewhere = 0

    def picture(self) -> str:
        """The last messages of every channel, for the error of a failed wait."""
        lines = []
        for channel in self.channels.values():
            lines += [f"#{channel.name}: {each.author.name}: {each.content!r}" for each in channel.history[-8:]]
        return "\n".join(lines) or "(no messages)"

    @property
    def flags(self) -> int:
        """The application's flags, which reflect the portal's switches."""
        return application_flags(self.message_content, self.members)

    def new_user(self, name: str, bot: bool = False) -> User:
        """Adds a user without a server."""
        user = User(self.clock.new_id(), name, bot)
        self.users[user.id] = user
        return user

    def new_guild(self, name: str) -> Guild:
        """Adds a server with the bot in it and an owner of its own."""
        guild = Guild(self.clock.new_id(), name, self.new_user(f"owner of {name}"))
        guild.roles[guild.id] = Role(guild.id, "@everyone", EVERYBODY_CAN)
        self.guilds[guild.id] = guild
        self.join(guild, guild.owner)
        self.join(guild, self.bot)
        return guild

    def join(self, guild: Guild, user: User) -> None:
        """Adds a user to a server."""
        guild.members[user.id] = user
        guild.has.setdefault(user.id, set())

    def new_role(self, guild: Guild, name: str, can: Can, mentionable: bool) -> Role:
        """Adds a role to a server."""
        role = Role(self.clock.new_id(), name, can, mentionable)
        guild.roles[role.id] = role
        self.emit("GUILD_ROLE_CREATE", lambda intents: {"guild_id": guild.id, "role": payloads.role(role)})
        return role

    def new_channel(self, name: str, guild: Guild) -> Channel:
        """Adds a text channel."""
        channel = self._channel(self.clock.new_id(), name, TEXT)
        channel.guild = guild
        self._tell_channel("CHANNEL_CREATE", channel)
        return channel

    def dm(self, user: User) -> Channel:
        """The direct-message channel between a user and the bot."""
        for channel in self.channels.values():
            if channel.person is user:
                return channel
        channel = self._channel(self.clock.new_id(), f"dm with {user.name}", DM)
        channel.person = user
        return channel

    def new_thread(self, parent: Channel, name: str, owner: User, on: Message | None = None) -> Channel:
        """Adds a public thread; one on a message has its id and starts with a reference to it."""
        thread = self._channel(on.id if on else self.clock.new_id(), name, PUBLIC_THREAD)
        thread.guild, thread.parent, thread.owner = parent.guild, parent, owner
        self._tell_channel("THREAD_CREATE", thread, newly_created=True)
        if on is not None:
            on.thread = thread
            self.add(thread, owner, "", kind=21, reply_to=on)
        return thread

    def delete_channel(self, channel: Channel) -> None:
        """Deletes a channel; like Discord, emits no events for its messages."""
        channel.deleted = True
        del self.channels[channel.id]
        self._tell_channel("THREAD_DELETE" if channel.parent else "CHANNEL_DELETE", channel)

    def add(
        self,
        channel: Channel,
        author: User,
        content: str,
        *,
        kind: int = 0,
        flags: int = 0,
        nonce: str | None = None,
        allowed: Json | None = None,
        embeds: Sequence[Json] = (),
        components: Sequence[Json] = (),
        files: Sequence[File] = (),
        reply_to: Message | None = None,
        interaction: Json | None = None,
        extra: Json | None = None,
    ) -> Message:
        """Adds a message and emits its event, unless it is ephemeral."""
        now = self.clock.now()
        message = Message(self.clock.new_id(), channel, author, now, [], kind, flags, nonce, interaction=interaction)
        message.attachments, message.extra = list(files), extra or {}
        if reply_to is not None:
            message.reference, message.reference_id = reply_to, reply_to.id
        answered = reply_to.author.id if reply_to is not None and kind == 19 else ""
        found = pings.evaluate(content, allowed, answered)
        links = pings.previews(content, bool(flags & SUPPRESS_EMBEDS))
        message.versions.append(Version(content, now, found, links, list(embeds), list(components), allowed))
        self._mention(message, found)
        if not flags & EPHEMERAL:
            channel.everything.append(message)
            self._tell_message("MESSAGE_CREATE", message)
        return message

    def edit(self, message: Message, version: Version, by_author: bool = True) -> None:
        """Adds a version to a message. Without `by_author` it is Discord's own update, not an edit."""
        message.versions.append(version)
        if by_author:
            message.edited_at = version.at
            self._mention(message, version.pings)
        if not message.ephemeral:
            self._tell_message("MESSAGE_UPDATE", message)

    def delete(self, message: Message) -> None:
        """Deletes a message."""
        message.deleted = True
        where = {"id": message.id, "channel_id": message.channel.id}
        if message.channel.guild is not None:
            where["guild_id"] = message.channel.guild.id
        if not message.ephemeral:
            self.emit("MESSAGE_DELETE", lambda intents: where if intents.messages(message.channel.in_guild) else None)

    def react(self, message: Message, user: User, emoji: str) -> None:
        """Adds a user's reaction with a Unicode emoji."""
        message.reactions.setdefault(emoji, set()).add(user.id)
        data = {
            "user_id": user.id,
            "channel_id": message.channel.id,
            "message_id": message.id,
            "burst": False,
            "type": 0,
        }
        data["emoji"] = {"id": None, "name": emoji}
        if message.channel.guild is not None:
            data["guild_id"] = message.channel.guild.id
            data["member"] = payloads.member(user, message.channel.guild)
        self.emit(
            "MESSAGE_REACTION_ADD",
            lambda intents: data if intents.reactions(message.channel.in_guild) else None,
        )

    def redeliver(self, message: Message) -> None:
        """Emits the MESSAGE_CREATE of a message again."""
        self._tell_message("MESSAGE_CREATE", message)

    def visible(self, guild: Guild) -> list[Channel]:
        """The channels and threads of a server that the bot sees."""
        channels = [each for each in self.channels.values() if each.guild is guild]
        return [each for each in channels if each.can(self.bot) & Can.VIEW_CHANNEL]

    def _channel(self, id_: str, name: str, kind: int) -> Channel:
        channel = Channel(
            id_, name, kind, self.bot, self.changes, lambda one: self._tell_channel("CHANNEL_UPDATE", one)
        )
        channel.created_at = self.clock.now()
        self.channels[id_] = channel
        self.everywhere.append(channel)
        return channel

    def _mention(self, message: Message, found: pings.Pings) -> None:
        message.mentions = [self.users[each] for each in sorted(found.users) if each in self.users]
        message.mention_roles = sorted(found.roles)
        message.mention_everyone = found.everyone

    def _tell_channel(self, event: str, channel: Channel, newly_created: bool = False) -> None:
        data = payloads.channel(channel) | ({"newly_created": True} if newly_created else {})
        seen = channel.can(self.bot) & Can.VIEW_CHANNEL
        self.emit(event, lambda intents: data if seen and intents & Intents.GUILDS else None)
        self.changes.tell()

    def _tell_message(self, event: str, message: Message) -> None:
        def build(intents: Intents) -> Json | None:
            if not intents.messages(message.channel.in_guild) or not message.channel.can(self.bot) & Can.VIEW_CHANNEL:
                return None
            return payloads.event_message(message, self.bot, bool(intents & Intents.MESSAGE_CONTENT))

        self.emit(event, build)
        self.changes.tell()
