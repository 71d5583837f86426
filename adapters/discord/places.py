"""Where something is said: Discord's channels and threads as conversation keys, and back."""

import asyncio
import logging
from weakref import WeakValueDictionary

import discord

from adapters.discord.failures import mapped
from adapters.discord.text import calls_of, plain_text
from bot.messages import ConversationKey

log = logging.getLogger(__name__)

PLATFORM = "discord"
THREAD_EXISTS = 160004
TITLE = 80
"""The longest title of a thread that we open; Discord takes 100 characters."""

Where = (
    discord.TextChannel
    | discord.VoiceChannel
    | discord.StageChannel
    | discord.Thread
    | discord.DMChannel
    | discord.PartialMessageable
    | discord.GroupChannel
)
"""Whatever messages can be in."""


def key_of(where: Where) -> ConversationKey:
    """The conversation of a channel, thread (channel = its parent) or direct message (no workspace)."""
    if isinstance(where, discord.Thread):
        return ConversationKey(PLATFORM, str(where.guild.id), str(where.parent_id), str(where.id))
    if isinstance(where, discord.PartialMessageable):
        return ConversationKey(PLATFORM, str(where.guild_id or ""), str(where.id))
    guild = where.guild
    return ConversationKey(PLATFORM, str(guild.id) if guild else "", str(where.id))


def is_private(where: Where) -> bool:
    """Whether it is a direct message. A history that is read back has its place by the id alone, not as a DMChannel."""
    return not key_of(where).workspace


async def known(client: discord.Client, where: Where) -> Where:
    """The channel itself, fetched if only its id is known (a private or archived thread). Raises AdapterError."""
    if not isinstance(where, discord.PartialMessageable) or where.guild_id is None:
        return where
    found = client.get_channel(where.id)
    if found is None:
        async with mapped():
            found = await client.fetch_channel(where.id)
    return found if isinstance(found, Where) else where


def target(client: discord.Client, key: ConversationKey) -> discord.PartialMessageable:
    """The place that a key names."""
    guild_id = int(key.workspace) if key.workspace else None
    return client.get_partial_messageable(int(key.thread or key.channel), guild_id=guild_id)


class Threads:
    """Opens the threads that answers are posted in, where INHOUSE_REPLY_IN_THREAD asks for them.

    A thread that starts from a message has the message's id: that is how the key of a conversation names a thread
    that is not there yet.
    """

    def __init__(self) -> None:
        self._there: dict[int, None] = {}
        self._opening: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def ensure(self, client: discord.Client, key: ConversationKey) -> None:
        """Open the thread of a key if it is not there. Raises AdapterError."""
        thread_id = int(key.thread or 0)
        if not thread_id or thread_id in self._there or client.get_channel(thread_id):
            return
        lock = self._opening.setdefault(thread_id, asyncio.Lock())
        async with lock:
            if thread_id not in self._there:
                async with mapped():
                    await self._open(client, key, thread_id)
                self._there[thread_id] = None
                if len(self._there) > 1000:
                    del self._there[next(iter(self._there))]

    async def _open(self, client: discord.Client, key: ConversationKey, thread_id: int) -> None:
        parent = client.get_partial_messageable(int(key.channel), guild_id=int(key.workspace))
        try:
            question = await parent.fetch_message(thread_id)
            await question.create_thread(name=_title(question, client.user))
        except discord.NotFound:
            return  # no such message: the thread starts from none, so it is there already
        except discord.HTTPException as error:
            if error.code != THREAD_EXISTS:
                raise


def _title(question: discord.Message, me: discord.ClientUser | None) -> str:
    calls = calls_of(me, question.guild) if me else ()
    line = " ".join(plain_text(question, calls).split()) or "Answer"
    return line if len(line) <= TITLE else f"{line[: TITLE - 1]}…"
