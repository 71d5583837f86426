"""Fetches what an event needs besides its message: the channel, files, earlier messages, whether the bot follows.

This is the only step between translation (`events`) and the core that calls Discord. What cannot be fetched is left
out, files with a remark to the reader; it never delays a message for long.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import aiohttp
import discord

from adapters.discord.channels import MessageChannel, resolve_channel
from adapters.discord.error_mapping import mapped_errors
from adapters.discord.inbound.events import EventTranslator, files_of, replied_to, resolved_target
from bot.config.settings import Settings
from bot.platforms.adapter import Core
from bot.platforms.pictures import PictureReader, is_picture, picture_refusal
from bot.platforms.textfiles import MAX_FILES, Files, gathered, read_as_text, refusal
from bot.types.display_names import as_code
from bot.types.errors import AdapterError, StorageError
from bot.types.messages import Attachment, ConversationKey, IncomingCommand, IncomingMessage, MessageEdited, Picture

log = logging.getLogger(__name__)

FILE_TIMEOUT_S = 10.0
MAX_CHAIN = 3
"""The most messages of a chain of replies that are read."""
MAX_LOOK_BACK = 10
"""The most messages of a thread that are searched for its last one of others."""
MENTION_EACH_TIME = (
    "*In this thread I only see messages that mention me, so please mention me each time "
    "(an admin of mine can switch on the message content intent).*"
)


class ContextFetcher:
    """Completes the events of one connection."""

    def __init__(self, settings: Settings, client: discord.Client, core: Core, translator: EventTranslator) -> None:
        self._settings, self._client, self._core = settings, client, core
        self.translator = translator
        self._pictures = PictureReader()

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings
        self.translator.reload(settings)

    async def enrich(self, event: IncomingMessage, message: discord.Message) -> IncomingMessage | IncomingCommand:
        """A message with all that belongs to it, or the command that it is.

        Nothing is fetched for one that the bot has nothing to do with.
        """
        channel = await self._channel_of(message)
        if channel is not message.channel:
            event = self.translator.message(message, channel) or event
        following = await self._follows(event.key)
        if not event.addressed and not following:
            return event
        if command := self.translator.command(event, message):
            return command
        key = self.translator.reply_key(channel, message.id) if event.addressed else event.key
        remarks = []
        if event.addressed and not following and self.translator.must_mention(key):
            remarks.append(MENTION_EACH_TIME)
        earlier = await self._earlier_messages(event, message, channel, following)
        return await self._complete(replace(event, key=key), message, channel, earlier, remarks)

    async def enrich_question(
        self, event: IncomingMessage, message: discord.Message, channel: MessageChannel
    ) -> IncomingMessage:
        """A message that was picked for an answer, with its files and what it replies to."""
        return await self._complete(event, message, channel, [], [])

    async def enrich_edit(self, edit: MessageEdited, message: discord.Message) -> MessageEdited:
        """An edited message, with its files where the bot may have answered it."""
        channel = await self._channel_of(message)
        if channel is not message.channel:
            edit = self.translator.edit(message, channel) or edit
        wanted = self.translator.addresses_bot(message, channel) or await self._follows(edit.key)
        read = await self._read_files(files_of(message) if wanted else ())
        return replace(edit, attachments=read.texts, pictures=read.pictures)

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

    async def _complete(
        self,
        event: IncomingMessage,
        message: discord.Message,
        channel: MessageChannel,
        earlier: Sequence[discord.Message],
        remarks: Sequence[str],
    ) -> IncomingMessage:
        """A message with its files and its context: earlier messages and the chain of replies."""
        read = await self._read_files(files_of(message))
        chain = await self._reply_chain(message, channel)
        if not (chain or event.text or read.texts or read.pictures) and isinstance(channel, discord.Thread):
            chain = await self._last_in_thread(message, channel)
        target = await self._read_files(files_of(chain[0]) if chain and not self._is_own(chain[0]) else ())
        context = [
            replace(
                self.translator.preceding(each, channel, event.key),
                attachments=target.texts if each in chain[:1] else (),
                pictures=target.pictures if each in chain[:1] else (),
            )
            for each in sorted({*earlier, *chain}, key=lambda each: each.id)
            if not self._is_own(each)
        ]
        return replace(
            event,
            attachments=read.texts,
            pictures=read.pictures,
            reply_to=str(chain[0].id) if chain else event.reply_to,
            context=tuple(each for each in context if each.text or each.attachments or each.pictures),
            remark=" ".join(filter(None, [read.remark, target.remark, *remarks])),
        )

    def _is_own(self, message: discord.Message) -> bool:
        return self._client.user is not None and message.author.id == self._client.user.id

    async def _earlier_messages(
        self, event: IncomingMessage, message: discord.Message, channel: MessageChannel, following: bool
    ) -> list[discord.Message]:
        """Messages that belong before this one: those around a mention, and the start of a thread."""
        found: list[discord.Message] = []
        try:
            async with mapped_errors():
                if event.addressed and self._settings.ambient and event.key.workspace:
                    found += [each async for each in channel.history(limit=self._settings.ambient, before=message)]
                if isinstance(channel, discord.Thread) and not following:
                    found += await self._start_of(channel)
        except AdapterError as error:
            log.warning("The messages before message %s cannot be read: %s", message.id, error)
        return found

    async def _reply_chain(self, message: discord.Message, channel: MessageChannel) -> list[discord.Message]:
        """The message that this one replies to, the one that it replies to, and so on, up to an answer of the bot."""
        chain: list[discord.Message] = []
        try:
            while len(chain) < MAX_CHAIN and replied_to(message):
                async with mapped_errors():
                    target = await self._target(message, channel)
                if target is None:
                    break
                chain.append(target)
                if self._is_own(target):
                    break  # its own question is stored with it
                message = target
        except AdapterError as error:
            log.info("What message %s replies to cannot be read: %s", message.id, error)
        return chain

    async def _target(self, message: discord.Message, channel: MessageChannel) -> discord.Message | None:
        """The message that this one replies to; None if it was deleted."""
        target = resolved_target(message)
        if target is None:
            target = await channel.fetch_message(int(replied_to(message)))
        if isinstance(target, discord.DeletedReferencedMessage):
            return None
        if target.type is discord.MessageType.thread_starter_message and isinstance(channel, discord.Thread):
            start = await self._start_of(channel)  # Discord shows it there, but its text is in the parent channel
            return start[0] if start else None
        return target

    async def _last_in_thread(self, message: discord.Message, thread: discord.Thread) -> list[discord.Message]:
        """The last message of others in a thread, which a mention without text asks about."""
        try:
            async with mapped_errors():
                async for each in thread.history(limit=MAX_LOOK_BACK, before=message):
                    if not self._is_own(each) and (self.translator.text(each) or files_of(each)):
                        return [each]
                return await self._start_of(thread)
        except AdapterError as error:
            log.info("The messages before message %s cannot be read: %s", message.id, error)
            return []

    async def _start_of(self, thread: discord.Thread) -> list[discord.Message]:
        """The message that a thread starts from, if there is one."""
        if thread.starter_message:
            return [thread.starter_message]
        channel = thread.parent if isinstance(thread.parent, discord.TextChannel) else thread  # as in a forum
        try:
            return [await channel.fetch_message(thread.id)]
        except discord.NotFound:
            return []

    async def _read_files(self, attachments: Sequence[discord.Attachment]) -> Files:
        """Download and decode the files of a message; raises nothing."""
        found = await asyncio.gather(*(self._read_file(attachment) for attachment in attachments[:MAX_FILES]))
        return gathered(found, len(attachments))

    async def _read_file(self, attachment: discord.Attachment) -> Attachment | Picture | str:
        """One file, or a sentence why it was skipped."""
        name = attachment.filename
        if is_picture(name, attachment.content_type or ""):
            skipped = picture_refusal(name, attachment.size)
            return skipped or await self._pictures.read(name, partial(_download, attachment))
        if sentence := refusal(name, attachment.size):
            return sentence
        data = await _download(attachment)
        return data if isinstance(data, str) else await asyncio.to_thread(read_as_text, name, data)


async def _download(attachment: discord.Attachment) -> bytes | str:
    """A file's content, or a sentence if it cannot be fetched."""
    try:
        async with asyncio.timeout(FILE_TIMEOUT_S):
            return await attachment.read()
    except (discord.DiscordException, aiohttp.ClientError, OSError, TimeoutError):
        return f"{as_code(attachment.filename)} could not be fetched from Discord, so I left it out."
