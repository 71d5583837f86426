"""Translates discord.py's messages and users into our types; `message_context` adds what has to be fetched."""

from collections.abc import Sequence
from dataclasses import replace

import discord

from adapters.discord.channels import PLATFORM, MessageChannel, conversation_key, is_private
from adapters.discord.message_text import bot_mentions, own_text, visible_text
from bot.config.settings import Settings
from bot.types.commands import parse_message
from bot.types.messages import ConversationKey, IncomingCommand, IncomingMessage, MessageDeleted, MessageEdited, Person

Interaction = discord.Interaction[discord.Client]

USER_MESSAGES = (discord.MessageType.default, discord.MessageType.reply)
"""The types of messages that people write; all others announce members, pins and so on."""
BOT_MESSAGES = (
    *USER_MESSAGES,
    discord.MessageType.chat_input_command,
    discord.MessageType.context_menu_command,
)
"""The types of messages that bots write, also as responses to their commands."""


def sent_at(snowflake: int) -> float:
    """The time in an id, which is what Discord orders by. Unix seconds."""
    return discord.utils.snowflake_time(snowflake).timestamp()


def edited_at(message: discord.Message) -> float:
    """When a message was last edited, Unix seconds; 0 if never."""
    return message.edited_at.timestamp() if message.edited_at else 0.0


def replied_to(message: discord.Message) -> str:
    """The id of the message that this one replies to, '' if there is none (a forwarded message is no reply)."""
    reference = message.reference if message.type is discord.MessageType.reply else None
    return str(reference.message_id or "") if reference else ""


def files_of(message: discord.Message) -> list[discord.Attachment]:
    """The files of a message and of the one that it forwards."""
    return [*message.attachments, *(file for snapshot in message.message_snapshots for file in snapshot.attachments)]


class EventTranslator:
    """Translates for one connection. `reads_all`: the bot has the message content intent.

    A message's channel may be known by its id alone; `context` fetches it and has the message translated again.
    """

    def __init__(self, settings: Settings, client: discord.Client, *, reads_all: bool) -> None:
        self._settings, self._client, self._reads_all = settings, client, reads_all

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    def message(self, message: discord.Message, channel: MessageChannel | None = None) -> IncomingMessage | None:
        """A new message; None if it is a bot's that is not allowed, or without its text."""
        channel = channel or message.channel
        if not self._is_readable(message, channel):
            return None
        key = conversation_key(channel)
        return self._event(message, channel, key, addressed=self.addresses_bot(message, channel))

    def command(self, event: IncomingMessage, message: discord.Message) -> IncomingCommand | None:
        """The command that a message to the bot is; None if it is more than that, or a bot's."""
        if event.author.is_bot or files_of(message) or message.message_snapshots or message.poll:
            return None
        command = parse_message(own_text(message, self._bot_mentions(message)))
        if command is None:
            return None
        name, args = command
        return IncomingCommand(event.key, event.message_id, event.author, name, args, event.sent_at)

    def question(self, message: discord.Message, channel: MessageChannel) -> IncomingMessage:
        """A message that was picked for an answer, also one of a bot."""
        return self._event(message, channel, self.reply_key(channel, message.id), addressed=True)

    def preceding(self, message: discord.Message, channel: MessageChannel, key: ConversationKey) -> IncomingMessage:
        """A message that belongs before another one in the conversation `key`."""
        return self._event(message, channel, key, addressed=False)

    def edit(self, message: discord.Message, channel: MessageChannel | None = None) -> MessageEdited | None:
        """An edited message; None unless a person changed its text (Discord sends previews as updates, too)."""
        channel = channel or message.channel
        if message.edited_at is None or not self._is_readable(message, channel):
            return None
        key = self.reply_key(channel, message.id) if self.addresses_bot(message, channel) else conversation_key(channel)
        return MessageEdited(
            key, str(message.id), author_of(message, channel), self.text(message), edited_at=edited_at(message)
        )

    def deletions(self, channel: MessageChannel, message_id: int) -> list[MessageDeleted]:
        """A deleted message, for each conversation that may hold it."""
        return [
            MessageDeleted(key, str(message_id))
            for key in {conversation_key(channel), self.reply_key(channel, message_id)}
        ]

    def reply_key(self, channel: MessageChannel, message_id: int) -> ConversationKey:
        """The conversation of the answer to a message: its own, or a new thread that starts from the message."""
        key = conversation_key(channel)
        if not self._settings.reply_in_thread or not isinstance(channel, discord.TextChannel):
            return key
        permissions = channel.permissions_for(channel.guild.me)
        if not permissions.create_public_threads or not permissions.send_messages_in_threads:
            return key
        return replace(key, thread=str(message_id))

    def addresses_bot(self, message: discord.Message, channel: MessageChannel) -> bool:
        """Whether a message is a direct one, mentions the bot or its role, or replies to it."""
        if is_private(channel):
            return True
        me = self._client.user
        answered = resolved_target(message)
        replies = me is not None and isinstance(answered, discord.Message) and answered.author.id == me.id
        return replies or self._mentions_bot(message)

    def _mentions_bot(self, message: discord.Message) -> bool:
        me = self._client.user
        return any(me is not None and user.id == me.id for user in message.mentions) or any(
            role == role.guild.self_role for role in message.role_mentions
        )

    def must_mention(self, key: ConversationKey) -> bool:
        """Whether Discord shows us only those messages of a followed thread that mention the bot."""
        return self._settings.follow_threads and bool(key.thread) and not self._reads_all

    def text(self, message: discord.Message) -> str:
        """The text of a message, of what it forwards, and of its embeds, components and poll."""
        return visible_text(message, self._bot_mentions(message))

    def _bot_mentions(self, message: discord.Message) -> Sequence[str]:
        return bot_mentions(self._client.user, message.guild) if self._client.user else ()

    def _event(
        self, message: discord.Message, channel: MessageChannel, key: ConversationKey, *, addressed: bool
    ) -> IncomingMessage:
        return IncomingMessage(
            key,
            str(message.id),
            author_of(message, channel),
            self.text(message),
            sent_at(message.id),
            addressed,
            reply_to=replied_to(message),
            edited_at=edited_at(message),
        )

    def _is_readable(self, message: discord.Message, channel: MessageChannel) -> bool:
        if message.author.bot or message.webhook_id:
            if message.type not in BOT_MESSAGES or not self._is_allowed_bot(message):
                return False
        elif message.type not in USER_MESSAGES:
            return False
        # Without the intent Discord sends empty content for messages that do not concern the bot.
        return self._reads_all or is_private(channel) or bool(files_of(message) or visible_text(message))

    def _is_allowed_bot(self, message: discord.Message) -> bool:
        """Whether a bot's message mentions us and INHOUSE_ALLOW_BOTS has the bot, its webhook or its application."""
        ids, me = _bot_ids(message), self._client.user
        if me is None or me.id in ids or self._client.application_id in ids:
            return False
        listed = any((PLATFORM, str(each)) in self._settings.allow_bots for each in ids)
        return listed and self._mentions_bot(message)


def resolved_target(message: discord.Message) -> discord.Message | discord.DeletedReferencedMessage | None:
    """The message that `message` replies to, if Discord sent it along and whole."""
    target = message.reference.resolved if message.reference else None
    whole = not isinstance(target, discord.Message) or hasattr(target, "author")  # the library takes one without
    return target if whole else None


def _bot_ids(message: discord.Message) -> set[int]:
    """The ids of a bot's message: its account or webhook, and the application, which has a webhook in each channel."""
    return {each for each in (message.author.id, message.webhook_id, message.application_id) if each}


def author_of(message: discord.Message, channel: MessageChannel) -> Person:
    """The author of a message. A bot has no rights, and the ids of its webhook and application as groups."""
    author = person(message.author, channel)
    if not message.author.bot and not message.webhook_id:
        return author
    return Person(author.id, author.name, groups=(*map(str, sorted(_bot_ids(message))), *author.groups), is_bot=True)


def person(member: discord.User | discord.Member, channel: MessageChannel) -> Person:
    """The author of a message, who manages the channel if it is a direct conversation."""
    # discord.py makes members without a guild where the event names none, or one that is not cached.
    if not isinstance(member, discord.Member) or getattr(member, "guild", None) is None:
        return Person(str(member.id), member.display_name, manages_channel=is_private(channel))
    permissions = member.guild_permissions
    if not isinstance(channel, discord.PartialMessageable | discord.DMChannel | discord.GroupChannel):
        try:
            permissions = channel.permissions_for(member)
        except discord.ClientException:  # a thread whose parent is not cached
            permissions = member.guild_permissions
    return _with_permissions(member, permissions)


def actor(interaction: Interaction) -> Person:
    """The user of a command or a button."""
    member = interaction.user
    if not isinstance(member, discord.Member):
        return Person(str(member.id), member.display_name, manages_channel=interaction.guild_id is None)
    return _with_permissions(member, interaction.permissions)


def _with_permissions(member: discord.Member, permissions: discord.Permissions) -> Person:
    return Person(
        str(member.id),
        member.display_name,
        manages_channel=permissions.manage_channels or permissions.manage_messages,
        manages_workspace=permissions.manage_guild or permissions.administrator,
        groups=tuple(str(role.id) for role in member.roles if not role.is_default()),
    )
