"""Reads back the messages of a conversation that were missed while the bot was not connected.

Discord's history contains no members, so these are fetched for the authors.
"""

import discord

from adapters.discord.channels import partial_channel
from adapters.discord.error_mapping import mapped_errors
from adapters.discord.inbound.message_context import ContextFetcher
from bot.types.messages import ConversationKey, IncomingMessage

MESSAGES_PER_RESULT = 4
"""Messages read per message wanted, since many may be those of bots."""


async def read_back(
    client: discord.Client, context: ContextFetcher, key: ConversationKey, after_id: int, limit: int
) -> list[IncomingMessage]:
    """At most `limit` messages, oldest first, without commands, which are out of date.

    Raises RetryLater, Rejected (no permission) or Gone.
    """
    channel = partial_channel(client, key)
    guild = client.get_guild(int(key.workspace)) if key.workspace else None
    members: dict[int, discord.Member | None] = {}
    found: list[IncomingMessage] = []
    async with mapped_errors():
        history = channel.history(limit=limit * MESSAGES_PER_RESULT, after=discord.Object(after_id), oldest_first=True)
        async for message in history:
            if len(found) == limit:
                break
            if guild is not None and not message.author.bot:
                if message.author.id not in members:
                    members[message.author.id] = await _member(guild, message.author.id)
                message.author = members[message.author.id] or message.author
            translated = context.translator.message(message)
            event = await context.enrich(translated, message) if translated else None
            if isinstance(event, IncomingMessage):
                found.append(event)
    return found


async def _member(guild: discord.Guild, user_id: int) -> discord.Member | None:
    try:
        return await guild.fetch_member(user_id)
    except discord.NotFound:
        return None  # left the server
