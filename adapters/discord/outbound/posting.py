"""Shows replies on Discord: posts, edits and finds messages, and shows the typing indicator.

No message or edit notifies anybody or unfurls a link. The nonce makes repeated posts one message. A channel that is
rate limited or forbids writing does not delay others.
"""

import asyncio
import io
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from weakref import WeakValueDictionary

import discord

from adapters.discord.channels import AnswerThreads, conversation_key, partial_channel
from adapters.discord.error_mapping import mapped_errors
from adapters.discord.outbound.components import view_of
from adapters.discord.outbound.posted_messages import find_message, first_part, part_after
from bot.config.settings import Settings
from bot.types.errors import Rejected
from bot.types.messages import Attachment, ConversationKey, Reply

log = logging.getLogger(__name__)

NO_MENTIONS = discord.AllowedMentions.none()
FORBIDDEN_S = 300.0
"""How long a channel that forbids writing is not tried again, seconds."""
MAX_CHARS = 2000
"""Discord's limit of a message; it counts code points."""
NO_HISTORY = 160002
"""Discord's error for a reference without the permission to read the history."""
FILE_NOT_ALLOWED = "\n*(I may not attach files here, so the file is missing.)*"
MAX_REMEMBERED = 2000
"""Answers whose message ids are kept in memory."""


def file_of(attachment: Attachment) -> discord.File:
    """An attachment as a file of discord.py's."""
    return discord.File(io.BytesIO(attachment.text.encode()), filename=attachment.name)


def _permissions(client: discord.Client, channel: discord.PartialMessageable) -> discord.Permissions | None:
    """The bot's permissions in a channel; None if they are not known, as without the gateway."""
    known = client.get_channel(channel.id)
    if isinstance(known, discord.abc.GuildChannel | discord.Thread):
        with suppress(discord.ClientException):  # a thread whose parent is not cached
            return known.permissions_for(known.guild.me)
    return None


def _attempts(
    known: discord.Permissions | None, reference: discord.MessageReference | None, file: Attachment | None
) -> list[tuple[discord.MessageReference | None, Attachment | None]]:
    """What to post besides the text: with unknown permissions each refusal may be due to the reference or the file."""
    if known is not None:
        return [(reference, file)]
    references = [reference, None] if reference else [None]
    files = [file, None] if file else [None]
    return [(each, one) for each in references for one in files]


def _is_not_permitted(error: discord.HTTPException) -> bool:
    return error.status == 403 or error.code == NO_HISTORY


def _text(reply: Reply, file: Attachment | None) -> str:
    text = reply.committed + reply.tail
    missing = reply.attachment and not file and len(text) + len(FILE_NOT_ALLOWED) <= MAX_CHARS
    return text + FILE_NOT_ALLOWED if missing else text


def _notice_nonce(message: discord.Message, part: int) -> str:
    """At most 25 characters: the same for each try, and another one once the message was edited."""
    edited = int(message.edited_at.timestamp()) % 100_000 if message.edited_at else 0
    return f"{message.id:x}/{part}/{edited}"[:25]


class Posting:
    """Posts replies and notices. `client` returns the client for a conversation, or raises RetryLater."""

    def __init__(self, settings: Settings, client: Callable[[ConversationKey], discord.Client]) -> None:
        self._settings, self._client = settings, client
        self._threads = AnswerThreads()
        self._locks: WeakValueDictionary[tuple[str, int], asyncio.Lock] = WeakValueDictionary()
        self._forbidden_until: dict[int, float] = {}  # by channel, monotonic seconds
        self._parts: OrderedDict[str, dict[int, str]] = OrderedDict()  # message ids by request and part
        self._refusals = 0

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    async def post(self, reply: Reply) -> str:
        """Post a reply; returns the message's id. Raises RetryLater, Rejected or OutcomeUnknown."""
        client = self._client(reply.key)
        channel = await self._channel_for(client, reply.key)
        self._check_allowed(channel)
        known = _permissions(client, channel)
        permissions = known or discord.Permissions.all()
        reference = await self._reference(client, channel, reply) if permissions.read_message_history else None
        attempts = _attempts(known, reference, reply.attachment if permissions.attach_files else None)
        async with self._lock("post", channel), mapped_errors(posting=True), self._remembering_forbidden(channel):
            while True:
                try:
                    sent = await self._send(channel, reply, *attempts.pop(0))
                    break
                except discord.HTTPException as error:
                    if not attempts or not _is_not_permitted(error):
                        raise
        self._remember(reply, str(sent.id))
        return str(sent.id)

    async def _send(
        self,
        channel: discord.PartialMessageable,
        reply: Reply,
        reference: discord.MessageReference | None,
        file: Attachment | None,
    ) -> discord.Message:
        return await channel.send(
            _text(reply, file),
            nonce=self._nonce(reply),  # discord.py sets enforce_nonce
            reference=reference,  # type: ignore[arg-type]  # None is the default, but missing in the overloads
            mention_author=False,
            allowed_mentions=NO_MENTIONS,
            suppress_embeds=True,
            view=view_of(reply),  # type: ignore[arg-type]  # as above
            file=file_of(file) if file else None,  # type: ignore[arg-type]
        )

    async def update(self, reply: Reply) -> None:
        """Update a posted reply. Raises RetryLater, Rejected or Gone."""
        assert reply.platform_id is not None
        client = self._client(reply.key)
        channel = partial_channel(client, reply.key)
        known = _permissions(client, channel)
        file = reply.attachment if known is None or known.attach_files else None
        self._remember(reply, reply.platform_id)
        async with self._lock("edit", channel), mapped_errors():
            message = channel.get_partial_message(int(reply.platform_id))
            try:
                await self._edit(message, reply, file)
            except discord.Forbidden:
                if known is not None or file is None:
                    raise
                await self._edit(message, reply, None)

    @staticmethod
    async def _edit(message: discord.PartialMessage, reply: Reply, file: Attachment | None) -> None:
        await message.edit(
            content=_text(reply, file),
            view=view_of(reply),
            allowed_mentions=NO_MENTIONS,
            attachments=[file_of(file)] if file else discord.utils.MISSING,
        )

    async def find_posted(self, reply: Reply) -> str | None:
        """The message id of a reply that may have been posted. Raises RetryLater, Rejected or Gone."""
        client = self._client(reply.key)
        channel = await self._channel_for(client, reply.key)
        async with mapped_errors():
            found = await find_message(client, channel, reply)
        if found is not None:
            self._remember(reply, found)
        return found

    async def typing(self, key: ConversationKey) -> None:
        """Show the typing indicator for ten seconds. Raises RetryLater, Rejected or Gone."""
        client = self._client(key)
        channel = await self._channel_for(client, key)
        self._check_allowed(channel)
        lock = self._lock("typing", channel)
        if lock.locked():
            return
        async with lock, mapped_errors(), self._remembering_forbidden(channel):
            await channel.typing()

    async def send_notice(self, message: discord.Message, part: int, text: str, attachment: Attachment | None) -> None:
        """Answer a message with a notice; repeated calls make one message. Raises AdapterError."""
        client = self._client(conversation_key(message.channel))
        channel = client.get_partial_messageable(message.channel.id)
        self._check_allowed(channel)
        async with self._lock("post", channel), mapped_errors(), self._remembering_forbidden(channel):
            await channel.send(
                text,
                nonce=_notice_nonce(message, part),
                reference=message.to_reference(fail_if_not_exists=False),
                mention_author=False,
                allowed_mentions=NO_MENTIONS,
                suppress_embeds=True,
                file=file_of(attachment) if attachment else None,  # type: ignore[arg-type]  # as above
            )

    def clear_forbidden(self, channel_id: int) -> None:
        """Try a channel again, whose permissions may have changed."""
        self._forbidden_until.pop(channel_id, None)

    async def _channel_for(self, client: discord.Client, key: ConversationKey) -> discord.PartialMessageable:
        if key.thread and self._settings.reply_in_thread:
            await self._threads.ensure(client, key)
        return partial_channel(client, key)

    async def _reference(
        self, client: discord.Client, channel: discord.PartialMessageable, reply: Reply
    ) -> discord.MessageReference | None:
        """The message that a reply references: the part before it, or the question."""
        answered = reply.question_id
        if reply.part:
            parts = self._parts.get(reply.request_id, {})
            if reply.part - 1 not in parts:
                async with mapped_errors():
                    first = await first_part(client, channel, reply)
                    found = await part_after(client, channel, first, reply.part - 1) if first else None
                parts = {reply.part - 1: found} if found else {}
            answered = parts.get(reply.part - 1, answered)
        elif reply.key.thread == answered:
            return None  # the thread starts from the question
        return discord.MessageReference(
            message_id=int(answered), channel_id=channel.id, guild_id=channel.guild_id, fail_if_not_exists=False
        )

    def _nonce(self, reply: Reply) -> str:
        """The same for each try, so that Discord drops repetitions; another one when a known message is replaced."""
        posted_id = self._parts.get(reply.request_id, {}).get(reply.part, "")
        return reply.reply_id + posted_id[-4:]

    def _remember(self, reply: Reply, message_id: str) -> None:
        self._parts.setdefault(reply.request_id, {})[reply.part] = message_id
        self._parts.move_to_end(reply.request_id)
        if len(self._parts) > MAX_REMEMBERED:
            self._parts.popitem(last=False)

    def _lock(self, kind: str, channel: discord.PartialMessageable) -> asyncio.Lock:
        """One call of a kind at a time in a channel, since calls after a rate limit would be refused as well."""
        return self._locks.setdefault((kind, channel.id), asyncio.Lock())

    def _check_allowed(self, channel: discord.PartialMessageable) -> None:
        if self._forbidden_until.get(channel.id, 0.0) > time.monotonic():
            raise Rejected("Discord forbade writing in this channel a few minutes ago.")

    @asynccontextmanager
    async def _remembering_forbidden(self, channel: discord.PartialMessageable) -> AsyncIterator[None]:
        """Remember a channel that forbids writing: 10,000 refusals in ten minutes block the bot's address."""
        try:
            yield
        except discord.Forbidden:
            self._refusals += 1
            now = time.monotonic()
            self._forbidden_until = {name: until for name, until in self._forbidden_until.items() if until > now}
            self._forbidden_until[channel.id] = now + FORBIDDEN_S
            log.warning(
                "Discord forbids writing in channel %s; no more tries there for five minutes (refusal number %d).",
                channel.id,
                self._refusals,
            )
            raise
