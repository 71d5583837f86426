"""What happens on Discord, as our events.

In: discord.py's messages, live or read back. Out: IncomingMessage and IncomingCommand with all that belongs to them
(files, the message that is answered, what a thread starts from), or None for what is nobody's business. It promises
that what cannot be fetched is left out and never keeps a message back.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import discord

from adapters.discord import files
from adapters.discord.failures import mapped
from adapters.discord.people import person
from adapters.discord.places import Where, is_private, key_of, known
from adapters.discord.text import calls_of, plain_text
from bot.adapter import Core
from bot.commands import parse_text
from bot.config import Settings
from bot.errors import AdapterError, StorageError
from bot.messages import ConversationKey, IncomingCommand, IncomingMessage, MessageDeleted, MessageEdited
from bot.textfiles import Files

log = logging.getLogger(__name__)

SPOKEN = (discord.MessageType.default, discord.MessageType.reply)
"""Messages that somebody wrote; all others tell that somebody joined, pinned and so on."""

MENTION_EACH_TIME = (
    "*In this thread I only see messages that mention me, so please mention me each time "
    "(an admin of mine can switch on the message content intent).*"
)


def sent_at(snowflake: int) -> float:
    """When something was made, from its id: what Discord orders by. Unix seconds."""
    return discord.utils.snowflake_time(snowflake).timestamp()


def _answered(message: discord.Message) -> str:
    """The id of the message that this one answers, '' if it answers none (a forwarded one is no answer)."""
    reference = message.reference if message.type is discord.MessageType.reply else None
    return str(reference.message_id or "") if reference else ""


@dataclass(frozen=True, slots=True)
class _Heard:
    """A message with what has to be known before it is worth fetching anything for it."""

    message: discord.Message
    where: Where
    key: ConversationKey
    text: str
    addressed: bool


class Events:
    """Translates for one connection. `reads_all`: the bot has the message content intent."""

    def __init__(self, settings: Settings, client: discord.Client, core: Core, *, reads_all: bool) -> None:
        self._settings, self._client, self._core, self._reads_all = settings, client, core, reads_all

    def reload(self, settings: Settings) -> None:
        """Go by these from now on."""
        self._settings = settings

    async def said(self, message: discord.Message) -> IncomingMessage | IncomingCommand | None:
        """What a new message means; None for those of bots, and for those that we are not shown the text of."""
        heard = await self._hear(message)
        if heard is None:
            return None
        author, when = person(message.author, heard.where), sent_at(message.id)
        command = parse_text(heard.text)
        if command is not None:
            name, args = command
            return IncomingCommand(heard.key, str(message.id), author, name, args, when)
        event = IncomingMessage(heard.key, str(message.id), author, heard.text, when, heard.addressed)
        following = await self._follows(heard)
        if not heard.addressed and not following:
            return event
        read = await files.read(message.attachments)
        remarks = [read.remark] if read.remark else []
        if heard.addressed and self._must_mention(heard) and not following:
            remarks.append(MENTION_EACH_TIME)
        return replace(
            event,
            key=self._key(heard),
            attachments=read.texts,
            reply_to=_answered(message),
            context=await self._context(heard, following),
            remark=" ".join(remarks),
        )

    def answered_in(self, where: Where, message_id: int) -> ConversationKey:
        """The conversation of an answer: that of its question, or a thread that starts from it."""
        key = key_of(where)
        if not self._settings.reply_in_thread or not isinstance(where, discord.TextChannel):
            return key
        can = where.permissions_for(where.guild.me)
        if not can.create_public_threads or not can.send_messages_in_threads:
            return key
        return replace(key, thread=str(message_id))

    def gone(self, where: Where, message_id: int) -> list[MessageDeleted]:
        """A message that is to be forgotten, in each conversation that it may be in."""
        keys = {key_of(where), self.answered_in(where, message_id)}
        return [MessageDeleted(key, str(message_id)) for key in keys]

    async def asked_about(self, message: discord.Message, where: Where) -> IncomingMessage:
        """A message that somebody wants an answer to, whoever wrote it."""
        key, text = self.answered_in(where, message.id), plain_text(message, self._calls(message))
        read = await files.read(message.attachments)
        author = person(message.author, where)
        return IncomingMessage(
            key, str(message.id), author, text, sent_at(message.id), True, read.texts, remark=read.remark
        )

    async def edited(self, message: discord.Message) -> MessageEdited | None:
        """What a changed message says now; None if nobody changed its text (Discord adds previews by updates too)."""
        if message.edited_at is None:
            return None
        heard = await self._hear(message)
        if heard is None:
            return None
        key = self._key(heard)
        read = await files.read(message.attachments if heard.addressed or await self._follows(heard) else ())
        return MessageEdited(key, str(message.id), person(message.author, heard.where), heard.text, read.texts)

    async def _hear(self, message: discord.Message) -> _Heard | None:
        if message.author.bot or message.webhook_id or message.type not in SPOKEN:
            return None
        where = message.channel
        try:
            where = await known(self._client, where)
        except AdapterError as error:
            log.warning("The place of a message is not known: %s", error)
        private = is_private(where)
        addressed = private or self._is_called(message)
        if not message.content and not message.attachments and not self._reads_all and not private:
            return None  # there was something, and it is not for us to see
        return _Heard(message, where, key_of(where), plain_text(message, self._calls(message)), addressed)

    def _calls(self, message: discord.Message) -> Sequence[str]:
        me = self._client.user
        return calls_of(me, message.guild) if me else ()

    def _is_called(self, message: discord.Message) -> bool:
        """By its name, by its role's name, or by an answer to it."""
        me = self._client.user
        if me is None:
            return False
        answered = message.reference.resolved if message.reference else None
        return (
            any(user.id == me.id for user in message.mentions)
            or any(role == role.guild.self_role for role in message.role_mentions)
            or (isinstance(answered, discord.Message) and answered.author.id == me.id)
        )

    async def _follows(self, heard: _Heard) -> bool:
        """Whether this is in a thread that the bot takes part in."""
        if not heard.key.thread or not self._settings.follow_threads:
            return False
        try:
            return await self._core.following(heard.key)
        except StorageError:
            return True  # the message itself will not be stored either, and then comes again

    def _must_mention(self, heard: _Heard) -> bool:
        """Whether the next message of this conversation can only be read if it mentions the bot."""
        follows = self._settings.follow_threads and bool(self._key(heard).thread)
        return follows and not self._reads_all

    def _key(self, heard: _Heard) -> ConversationKey:
        return self.answered_in(heard.where, heard.message.id) if heard.addressed else heard.key

    async def _context(self, heard: _Heard, following: bool) -> tuple[IncomingMessage, ...]:
        """What belongs before a message and may not be known, oldest first."""
        message, where = heard.message, heard.where
        found: list[discord.Message] = []
        try:
            async with mapped():
                if heard.addressed and self._settings.ambient and heard.key.workspace:
                    found += [each async for each in where.history(limit=self._settings.ambient, before=message)]
                if isinstance(where, discord.Thread) and not following:
                    found += await self._start_of(where)
                if message.reference and message.type is discord.MessageType.reply:
                    answered = message.reference.resolved
                    if answered is None and message.reference.message_id:
                        answered = await where.fetch_message(message.reference.message_id)
                    found += [answered] if isinstance(answered, discord.Message) else []
        except AdapterError as error:
            log.warning("What belongs before message %s cannot be read: %s", message.id, error)
        me = self._client.user
        by_id = {each.id: each for each in found if me is None or each.author.id != me.id}
        key = self._key(heard)
        events = [await self._background(by_id[each], heard, key) for each in sorted(by_id)]
        return tuple(event for event in events if event.text or event.attachments)

    async def _start_of(self, thread: discord.Thread) -> list[discord.Message]:
        """The message that a thread starts from, if it starts from one."""
        if thread.starter_message:
            return [thread.starter_message]
        where = thread.parent if isinstance(thread.parent, discord.TextChannel) else thread  # as in a forum
        try:
            return [await where.fetch_message(thread.id)]
        except discord.NotFound:
            return []

    async def _background(self, message: discord.Message, heard: _Heard, key: ConversationKey) -> IncomingMessage:
        read = Files()
        if str(message.id) == _answered(heard.message):
            read = await files.read(message.attachments)
        text, author = plain_text(message, self._calls(message)), person(message.author, heard.where)
        return IncomingMessage(key, str(message.id), author, text, sent_at(message.id), False, read.texts)
