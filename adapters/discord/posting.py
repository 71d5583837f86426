"""Replies onto Discord: post, edit, find again, and the typing indicator.

In: replies as they should look. Out: Discord's messages. It promises: nobody is ever notified and no link is unfurled,
in edits too; a post that Discord repeats is one post (nonce); a channel that is rate limited or forbids writing slows
and troubles no other.
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

from adapters.discord.components import view_of
from adapters.discord.failures import mapped
from adapters.discord.finding import first_part, part_after, recognised
from adapters.discord.places import Threads, target
from bot.config import Settings
from bot.errors import Rejected
from bot.messages import Attachment, ConversationKey, Reply

log = logging.getLogger(__name__)

NOBODY = discord.AllowedMentions.none()
SHUT_S = 300.0
"""How long a channel that forbade writing is left alone."""
MAX_CHARS = 2000
NO_FILE = "\n*(I may not attach files here, so it is missing.)*"
REMEMBERED = 2000
"""Answers whose messages' ids are kept in memory."""


def file_of(attachment: Attachment) -> discord.File:
    """A file to send."""
    return discord.File(io.BytesIO(attachment.text.encode()), filename=attachment.name)


def _allowed(client: discord.Client, where: discord.PartialMessageable) -> discord.Permissions:
    """What the bot may do in a place, as far as is known: an answer should not fail for want of a lesser permission."""
    channel = client.get_channel(where.id)
    if isinstance(channel, discord.abc.GuildChannel | discord.Thread):
        with suppress(discord.ClientException):  # a thread whose channel is not known
            return channel.permissions_for(channel.guild.me)
    return discord.Permissions.all()


def _text(reply: Reply, file: Attachment | None) -> str:
    text = reply.committed + reply.tail
    missing = reply.attachment and not file and len(text) + len(NO_FILE) <= MAX_CHARS
    return text + NO_FILE if missing else text


class Posting:
    """Carries replies through the client that is connected now. `client` raises RetryLater while there is none."""

    def __init__(self, settings: Settings, client: Callable[[], discord.Client]) -> None:
        self._settings, self._client = settings, client
        self._threads = Threads()
        self._lanes: WeakValueDictionary[tuple[str, int], asyncio.Lock] = WeakValueDictionary()
        self._shut: dict[int, float] = {}  # channels that forbid writing, and until when they are left alone
        self._parts: OrderedDict[str, dict[int, str]] = OrderedDict()  # message ids by request and part
        self._forbidden = 0  # how often Discord forbade writing

    def reload(self, settings: Settings) -> None:
        """Go by these from now on."""
        self._settings = settings

    async def post(self, reply: Reply) -> str:
        """Show a reply for the first time; the message's id. Raises RetryLater, Rejected or OutcomeUnknown."""
        client = self._client()
        where = await self._place(client, reply.key)
        self._check_open(where)
        can = _allowed(client, where)
        before = await self._before(client, where, reply) if can.read_message_history else None
        file = reply.attachment if can.attach_files else None
        view = view_of(reply)
        async with self._lane("post", where), mapped(posting=True), self._noting_forbidden(where):
            sent = await where.send(
                _text(reply, file),
                nonce=self._nonce(reply),  # discord.py also asks Discord to enforce it
                reference=before,  # type: ignore[arg-type]  # None is its default, which the overloads forgot
                mention_author=False,
                allowed_mentions=NOBODY,
                suppress_embeds=True,
                view=view,  # type: ignore[arg-type]  # as above
                file=file_of(file) if file else None,  # type: ignore[arg-type]
            )
        self._remember(reply, str(sent.id))
        return str(sent.id)

    async def update(self, reply: Reply) -> None:
        """Bring a message up to date. Raises RetryLater, Rejected or Gone."""
        assert reply.platform_id is not None
        client = self._client()
        where = target(client, reply.key)
        file = reply.attachment if _allowed(client, where).attach_files else None
        self._remember(reply, reply.platform_id)
        async with self._lane("edit", where), mapped():
            await where.get_partial_message(int(reply.platform_id)).edit(
                content=_text(reply, file),
                view=view_of(reply),
                allowed_mentions=NOBODY,
                attachments=[file_of(file)] if file else discord.utils.MISSING,
            )

    async def find_posted(self, reply: Reply) -> str | None:
        """The id of the message of a reply that may have been posted. Raises RetryLater, Rejected or Gone."""
        client = self._client()
        where = await self._place(client, reply.key)
        async with mapped():
            found = await recognised(client, where, reply)
        if found is not None:
            self._remember(reply, found)
        return found

    async def typing(self, key: ConversationKey) -> None:
        """Show for ten seconds that something is being written. Raises RetryLater, Rejected or Gone."""
        client = self._client()
        where = await self._place(client, key)
        self._check_open(where)
        lane = self._lane("typing", where)
        if lane.locked():
            return
        async with lane, mapped(), self._noting_forbidden(where):
            await where.typing()

    async def tell(self, message: discord.Message, part: int, text: str, attachment: Attachment | None) -> None:
        """Answer a message with words of our own, once however often it is delivered. Raises AdapterError."""
        client = self._client()
        where = client.get_partial_messageable(message.channel.id)
        self._check_open(where)
        async with self._lane("post", where), mapped(), self._noting_forbidden(where):
            await where.send(
                text,
                nonce=f"{message.id}/{part}",
                reference=message.to_reference(fail_if_not_exists=False),
                mention_author=False,
                allowed_mentions=NOBODY,
                suppress_embeds=True,
                file=file_of(attachment) if attachment else None,  # type: ignore[arg-type]  # as above
            )

    def reopen(self, channel_id: int) -> None:
        """A channel's permissions may have changed."""
        self._shut.pop(channel_id, None)

    async def _place(self, client: discord.Client, key: ConversationKey) -> discord.PartialMessageable:
        if key.thread and self._settings.reply_in_thread:
            await self._threads.ensure(client, key)
        return target(client, key)

    async def _before(
        self, client: discord.Client, where: discord.PartialMessageable, reply: Reply
    ) -> discord.MessageReference | None:
        """The message that a reply is shown to answer: the part before it, or the question."""
        answered = reply.question_id
        if reply.part:
            parts = self._parts.get(reply.request_id, {})
            if reply.part - 1 not in parts:
                async with mapped():
                    first = await first_part(client, where, reply)
                    found = await part_after(client, where, first, reply.part - 1) if first else None
                parts = {reply.part - 1: found} if found else {}
            answered = parts.get(reply.part - 1, answered)
        elif reply.key.thread == answered:
            return None  # the thread starts from the question
        return discord.MessageReference(
            message_id=int(answered), channel_id=where.id, guild_id=where.guild_id, fail_if_not_exists=False
        )

    def _nonce(self, reply: Reply) -> str:
        """The same for every try, so that Discord drops repetitions; another one to replace a known message."""
        known = self._parts.get(reply.request_id, {}).get(reply.part, "")
        return reply.reply_id + known[-4:]

    def _remember(self, reply: Reply, message_id: str) -> None:
        self._parts.setdefault(reply.request_id, {})[reply.part] = message_id
        self._parts.move_to_end(reply.request_id)
        if len(self._parts) > REMEMBERED:
            self._parts.popitem(last=False)

    def _lane(self, kind: str, where: discord.PartialMessageable) -> asyncio.Lock:
        """One call of a kind at a time in a channel: what follows a refused one would only be refused too."""
        return self._lanes.setdefault((kind, where.id), asyncio.Lock())

    def _check_open(self, where: discord.PartialMessageable) -> None:
        if self._shut.get(where.id, 0.0) > time.monotonic():
            raise Rejected("Discord does not allow writing there, as it said a moment ago.")

    @asynccontextmanager
    async def _noting_forbidden(self, where: discord.PartialMessageable) -> AsyncIterator[None]:
        """Remember a channel that forbids writing: refusals count against a bot, and 10,000 shut it out altogether."""
        try:
            yield
        except discord.Forbidden:
            self._forbidden += 1
            self._shut = {channel: until for channel, until in self._shut.items() if until > time.monotonic()}
            self._shut[where.id] = time.monotonic() + SHUT_S
            log.warning(
                "Discord does not let me write in channel %s, so I leave it alone for a while (refusal number %d).",
                where.id,
                self._forbidden,
            )
            raise
