"""Fetches what an event needs besides its message: the channel, files, earlier messages, whether the bot follows.

This is the only step between translation (`events`) and the core that calls Discord. What cannot be fetched is left
out, files with a remark to the reader; it never keeps a message back.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

import aiohttp
import discord

from adapters.discord.channels import MessageChannel, resolve_channel
from adapters.discord.error_mapping import mapped_errors
from adapters.discord.inbound.events import EventTranslator, files_of, replied_to
from bot.config.settings import Settings
from bot.platforms.adapter import Core
from bot.platforms.textfiles import MAX_FILES, Files, gathered, read_as_text, refusal
from bot.types.display_names import as_code
from bot.types.errors import AdapterError, StorageError
from bot.types.messages import Attachment, ConversationKey, IncomingCommand, IncomingMessage, MessageEdited

log = logging.getLogger(__name__)

FILE_TIMEOUT_S = 10.0
MENTION_EACH_TIME = (
    "*In this thread I only see messages that mention me, so please mention me each time "
    "(an admin of mine can switch on the message content intent).*"
)


class ContextFetcher:
    """Completes the events of one connection."""

    def __init__(self, settings: Settings, client: discord.Client, core: Core, translator: EventTranslator) -> None:
        self._settings, self._client, self._core = settings, client, core
        self.translator = translator

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings
        self.translator.reload(settings)

    async def enrich(
        self, event: IncomingMessage | IncomingCommand, message: discord.Message
    ) -> IncomingMessage | IncomingCommand:
        """A message with all that belongs to it; files and earlier messages only if the bot is to answer it."""
        channel = await self._channel_of(message)
        if channel is not message.channel:
            event = self.translator.message(message, channel) or event
        if isinstance(event, IncomingCommand):
            return event
        following = await self._follows(event.key)
        if not event.addressed and not following:
            return event
        key = self.translator.reply_key(channel, message.id) if event.addressed else event.key
        read = await read_files(files_of(message))
        remarks = [read.remark] if read.remark else []
        if event.addressed and not following and self.translator.must_mention(key):
            remarks.append(MENTION_EACH_TIME)
        preceding = await self._preceding(event, message, channel, following)
        context = [await self._as_context(each, message, channel, key) for each in preceding]
        return replace(
            event,
            key=key,
            attachments=read.texts,
            reply_to=replied_to(message),
            context=tuple(each for each in context if each.text or each.attachments),
            remark=" ".join(remarks),
        )

    async def enrich_question(self, event: IncomingMessage, message: discord.Message) -> IncomingMessage:
        """A message that was picked for an answer, with its files."""
        read = await read_files(files_of(message))
        return replace(event, attachments=read.texts, remark=read.remark)

    async def enrich_edit(self, edit: MessageEdited, message: discord.Message) -> MessageEdited:
        """An edited message, with its files where the bot may have answered it."""
        channel = await self._channel_of(message)
        if channel is not message.channel:
            edit = self.translator.edit(message, channel) or edit
        wanted = self.translator.addresses_bot(message, channel) or await self._follows(edit.key)
        read = await read_files(files_of(message) if wanted else ())
        return replace(edit, attachments=read.texts)

    async def _channel_of(self, message: discord.Message) -> MessageChannel:
        try:
            return await resolve_channel(self._client, message.channel)
        except AdapterError as error:
            log.warning("The channel of message %s cannot be fetched: %s", message.id, error)
            return message.channel

    async def _follows(self, key: ConversationKey) -> bool:
        """Whether this is a thread in which the bot answers without being mentioned."""
        if not key.thread or not self._settings.follow_threads:
            return False
        try:
            return await self._core.following(key)
        except StorageError:
            return True  # storing the message fails as well, so it is handled again

    async def _preceding(
        self, event: IncomingMessage, message: discord.Message, channel: MessageChannel, following: bool
    ) -> list[discord.Message]:
        """Other people's messages that belong before this one, oldest first."""
        found: list[discord.Message] = []
        try:
            async with mapped_errors():
                if event.addressed and self._settings.ambient and event.key.workspace:
                    found += [each async for each in channel.history(limit=self._settings.ambient, before=message)]
                if isinstance(channel, discord.Thread) and not following:
                    found += await self._start_of(channel)
                if message.reference and message.type is discord.MessageType.reply:
                    answered = message.reference.resolved
                    if answered is None and message.reference.message_id:
                        answered = await channel.fetch_message(message.reference.message_id)
                    found += [answered] if isinstance(answered, discord.Message) else []
        except AdapterError as error:
            log.warning("The messages before message %s cannot be read: %s", message.id, error)
        me = self._client.user
        by_id = {each.id: each for each in found if me is None or each.author.id != me.id}
        return [by_id[each] for each in sorted(by_id)]

    async def _start_of(self, thread: discord.Thread) -> list[discord.Message]:
        """The message that a thread starts from, if there is one."""
        if thread.starter_message:
            return [thread.starter_message]
        channel = thread.parent if isinstance(thread.parent, discord.TextChannel) else thread  # as in a forum
        try:
            return [await channel.fetch_message(thread.id)]
        except discord.NotFound:
            return []

    async def _as_context(
        self, message: discord.Message, question: discord.Message, channel: MessageChannel, key: ConversationKey
    ) -> IncomingMessage:
        """An earlier message; the one that the question replies to brings its files."""
        event = self.translator.preceding(message, channel, key)
        if str(message.id) != replied_to(question):
            return event
        return replace(event, attachments=(await read_files(files_of(message))).texts)


async def read_files(attachments: Sequence[discord.Attachment]) -> Files:
    """Download and decode the files of a message; raises nothing."""
    found = await asyncio.gather(*(_read_file(attachment) for attachment in attachments[:MAX_FILES]))
    return gathered(found, len(attachments))


async def _read_file(attachment: discord.Attachment) -> Attachment | str:
    """One file, or a sentence why it was skipped."""
    name = attachment.filename
    if sentence := refusal(name, attachment.content_type or "", attachment.size):
        return sentence
    try:
        async with asyncio.timeout(FILE_TIMEOUT_S):
            data = await attachment.read()
    except (discord.DiscordException, aiohttp.ClientError, OSError, TimeoutError):
        return f"{as_code(name)} could not be fetched from Discord, so I left it out."
    return read_as_text(name, data)
