"""Translates Discord's channels and threads into conversation keys and back, and opens threads for answers."""

import asyncio
import logging
from weakref import WeakValueDictionary

import discord

from adapters.discord.error_mapping import mapped_errors
from adapters.discord.message_text import bot_mentions, visible_text
from bot.types.messages import ConversationKey

log = logging.getLogger(__name__)

PLATFORM = "discord"
THREAD_EXISTS = 160004
MAX_TITLE = 80
"""The longest title of a thread that we open; Discord allows 100 characters."""

MessageChannel = (
    discord.TextChannel
    | discord.VoiceChannel
    | discord.StageChannel
    | discord.Thread
    | discord.DMChannel
    | discord.PartialMessageable
    | discord.GroupChannel
)
"""Every kind of channel that holds messages."""


def conversation_key(channel: MessageChannel) -> ConversationKey:
    """The key of a channel, a thread (channel = its parent) or a direct conversation (no workspace)."""
    if isinstance(channel, discord.Thread):
        return ConversationKey(PLATFORM, str(channel.guild.id), str(channel.parent_id), str(channel.id))
    if isinstance(channel, discord.PartialMessageable):
        return ConversationKey(PLATFORM, str(channel.guild_id or ""), str(channel.id))
    guild = channel.guild
    return ConversationKey(PLATFORM, str(guild.id) if guild else "", str(channel.id))


def is_private(channel: MessageChannel) -> bool:
    """Whether a channel is a direct conversation; also for one known by its id alone, which is no DMChannel."""
    return not conversation_key(channel).workspace


async def resolve_channel(client: discord.Client, channel: MessageChannel) -> MessageChannel:
    """The channel, fetched if only its id is known (a private or archived thread). Raises AdapterError."""
    if not isinstance(channel, discord.PartialMessageable) or channel.guild_id is None:
        return channel
    found = client.get_channel(channel.id)
    if found is None:
        async with mapped_errors():
            found = await client.fetch_channel(channel.id)
    return found if isinstance(found, MessageChannel) else channel


def partial_channel(client: discord.Client, key: ConversationKey) -> discord.PartialMessageable:
    """The channel or thread of a key, by its id alone."""
    guild_id = int(key.workspace) if key.workspace else None
    return client.get_partial_messageable(int(key.thread or key.channel), guild_id=guild_id)


class AnswerThreads:
    """Opens threads for answers, where INHOUSE_REPLY_IN_THREAD is set.

    A thread that starts from a message has the message's id, so a key can name a thread before it exists.
    """

    def __init__(self) -> None:
        self._existing: dict[int, None] = {}
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def ensure(self, client: discord.Client, key: ConversationKey) -> None:
        """Open the thread of a key if it does not exist. Raises AdapterError."""
        thread_id = int(key.thread or 0)
        if not thread_id or thread_id in self._existing or client.get_channel(thread_id):
            return
        lock = self._locks.setdefault(thread_id, asyncio.Lock())
        async with lock:
            if thread_id not in self._existing:
                async with mapped_errors():
                    await self._open(client, key, thread_id)
                self._existing[thread_id] = None
                if len(self._existing) > 1000:
                    del self._existing[next(iter(self._existing))]

    async def _open(self, client: discord.Client, key: ConversationKey, thread_id: int) -> None:
        parent = client.get_partial_messageable(int(key.channel), guild_id=int(key.workspace))
        try:
            question = await parent.fetch_message(thread_id)
            await question.create_thread(name=_title(question, client.user))
        except discord.NotFound:
            return  # the thread starts from no message, so it exists already
        except discord.HTTPException as error:
            if error.code != THREAD_EXISTS:
                raise


def _title(question: discord.Message, me: discord.ClientUser | None) -> str:
    mentions = bot_mentions(me, question.guild) if me else ()
    line = " ".join(visible_text(question, mentions).split()) or "Answer"
    return line if len(line) <= MAX_TITLE else f"{line[: MAX_TITLE - 1]}…"
