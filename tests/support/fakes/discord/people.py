"""The users of the fake Discord, controlled by tests: they write, edit, react, press buttons and use commands.

Every method acts like a user's client, raises AssertionError for what the client would not allow, and returns what the
user sees. Methods that make an interaction return once the bot responded, or after `patience` seconds without a
response (`failed`).
"""

import secrets
from collections.abc import Mapping, Sequence

from tests.support.fakes.discord import payloads
from tests.support.fakes.discord.bits import Can
from tests.support.fakes.discord.commands import CHAT, MESSAGE_MENU, CommandRoutes, command_data
from tests.support.fakes.discord.interactions import AUTOCOMPLETE, COMMAND, COMPONENT, Interaction, InteractionRoutes
from tests.support.fakes.discord.pings import evaluate
from tests.support.fakes.discord.rest import new_file
from tests.support.fakes.discord.state import SUPPRESS_EMBEDS, Channel, Json, Message, Role, User, Version
from tests.support.fakes.discord.store import DiscordStore

QUIET_REPLY: Json = {"parse": ["users", "roles", "everyone"], "replied_user": False}


class Person:
    """A user with a Discord client."""

    def __init__(
        self, user: User, store: DiscordStore, commands: CommandRoutes, interactions: InteractionRoutes
    ) -> None:
        self.user = user
        self.id, self.name, self.mention = user.id, user.name, user.mention
        self.patience = 3.5
        self._store, self._commands, self._interactions = store, commands, interactions

    def gets(self, role: Role) -> None:
        """Adds a role of the first server that has it."""
        guild = next(each for each in self._store.guilds.values() if role.id in each.roles)
        guild.has[self.id].add(role.id)

    async def says(
        self,
        channel: Channel,
        text: str,
        *,
        mention: bool = False,
        reply_to: Message | None = None,
        ping: bool = True,
        files: Mapping[str, bytes] | None = None,
        kind: int | None = None,
        embeds: Sequence[Json] = (),
        components: Sequence[Json] = (),
        extra: Json | None = None,
    ) -> Message:
        """Posts a message. `mention` puts the bot's mention before it, `ping` is the reply's ping switch, `files`
        are name -> content, `kind` overrides the message type (7: a member joined), `extra` are further fields of the
        payload."""
        content = f"{self._store.bot.mention} {text}".rstrip() if mention else text
        usual = 19 if reply_to else 0
        return self._store.add(
            channel,
            self.user,
            content,
            kind=usual if kind is None else kind,
            allowed=None if ping else QUIET_REPLY,
            files=[new_file(self._store, name, data) for name, data in (files or {}).items()],
            reply_to=reply_to,
            embeds=embeds,
            components=components,
            extra=extra,
        )

    async def edits(self, message: Message, text: str, *, mention: bool = False) -> None:
        """Edits one's own message."""
        assert message.author is self.user, "only the author can edit a message"
        content = f"{self._store.bot.mention} {text}".rstrip() if mention else text
        answered = message.reference.author.id if message.reference else ""
        self._store.edit(message, Version(content, self._store.clock.now(), evaluate(content, None, answered)))

    async def deletes(self, message: Message) -> None:
        """Deletes one's own message, or any message with MANAGE_MESSAGES."""
        assert message.author is self.user or message.channel.can(self.user) & Can.MANAGE_MESSAGES, "not allowed"
        self._store.delete(message)

    async def suppresses_embeds(self, message: Message) -> None:
        """Removes a message's link previews: an update that changes no text."""
        message.flags |= SUPPRESS_EMBEDS
        before = message.versions[-1]
        self._store.edit(message, Version(before.content, self._store.clock.now()), by_author=False)

    async def reacts(self, message: Message, emoji: str) -> None:
        """Reacts with a Unicode emoji."""
        self._store.react(message, self.user, emoji)

    async def opens_thread(self, channel: Channel, name: str, *, on: Message | None = None) -> Channel:
        """Starts a public thread, from a message if one is given."""
        return self._store.new_thread(channel, name, self.user, on)

    async def slash(self, name: str, /, *, channel: Channel, **options: object) -> Interaction:
        """Uses a slash command."""
        command = self._commands.find(name, CHAT, channel.can(self.user))
        return await self._interact(COMMAND, 20, channel, command_data(command, options))

    async def autocompletes(
        self, name: str, option: str, typed: str, *, channel: Channel, **others: object
    ) -> list[Json]:
        """Types into an option with autocompletion; the offered choices."""
        command = self._commands.find(name, CHAT, channel.can(self.user))
        data = command_data(command, others | {option: typed}, focused=option)
        interaction = await self._interact(AUTOCOMPLETE, 0, channel, data)
        assert not interaction.failed, "loading options failed"
        return interaction.choices

    async def uses(self, name: str, *, on: Message) -> Interaction:
        """Uses a command of a message's context menu."""
        command = self._commands.find(name, MESSAGE_MENU, on.channel.can(self.user))
        resolved = {"messages": {on.id: payloads.message(on, self._store.bot, True)}}
        data = {"id": command["id"], "name": name, "type": MESSAGE_MENU, "target_id": on.id, "resolved": resolved}
        return await self._interact(COMMAND, 23, on.channel, data)

    async def clicks(self, message: Message, button: str) -> Interaction:
        """Presses a button by its label or custom_id."""
        assert not message.deleted, "the message is gone"
        found = [each for each in message.buttons if button in (each.get("label"), each.get("custom_id"))]
        assert found, f"no button {button!r}; there are {[each.get('label') for each in message.buttons]}"
        assert not found[0].get("disabled"), f"the button {button!r} is disabled"
        data = {"component_type": 2, "custom_id": found[0]["custom_id"], "id": 1}
        return await self._interact(COMPONENT, 19, message.channel, data, message)

    async def _interact(
        self, kind: int, message_kind: int, channel: Channel, data: Json, source: Message | None = None
    ) -> Interaction:
        """Sends an interaction and waits for the first response."""
        clock = self._store.clock
        interaction = Interaction(
            clock.new_id(),
            secrets.token_urlsafe(64),
            kind,
            message_kind,
            self.user,
            channel,
            clock.now(),
            self._store.changes,
        )
        interaction.source = source
        self._interactions.all[interaction.token] = interaction
        payload = self._payload(interaction, data)
        self._store.emit("INTERACTION_CREATE", lambda intents: payload)
        end = clock.now() + self.patience
        await self._store.changes.until(lambda: not interaction.failed or clock.now() > end, self.patience + 1)
        return interaction

    def _payload(self, interaction: Interaction, data: Json) -> Json:
        channel, guild, bot = interaction.channel, interaction.channel.guild, self._store.bot
        payload: Json = {
            "id": interaction.id,
            "application_id": bot.id,
            "type": interaction.kind,
            "token": interaction.token,
            "version": 1,
            "data": data,
            "channel_id": channel.id,
            "channel": payloads.channel(channel) | {"permissions": str(int(channel.can(self.user)))},
            "app_permissions": str(int(channel.can(bot))),
            "locale": "en-US",
            "entitlements": [],
            "attachment_size_limit": 10 * 1024 * 1024,
            "authorizing_integration_owners": {"0": guild.id if guild else "0"},
            "context": 0 if guild else 1,
        }
        if interaction.source is not None:
            payload["message"] = payloads.message(interaction.source, bot, True)
        if guild is None:
            return payload | {"user": payloads.user(self.user)}
        member = payloads.member(self.user, guild) | {"permissions": str(int(channel.can(self.user)))}
        told = {"id": guild.id, "locale": "en-US", "features": []}
        return payload | {"guild_id": guild.id, "guild": told, "guild_locale": "en-US", "member": member}
