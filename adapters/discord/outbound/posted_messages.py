"""Finds the message of a reply in the history, for a post whose outcome is unknown.

The history has no nonces. So the first part of an answer is found by its buttons, and each later part by its reference
to the part before.
"""

from collections.abc import AsyncIterator

import discord

from adapters.discord.outbound.components import buttons_of
from bot.types.messages import Reply

MAX_READ = 300
"""The most messages that are read, from the newest backwards and from the question onwards."""


async def find_message(client: discord.Client, channel: discord.PartialMessageable, reply: Reply) -> str | None:
    """The id of a reply's message, or None if there is none."""
    first = await first_part(client, channel, reply)
    if first is None or reply.part == 0:
        return first
    return await part_after(client, channel, first, reply.part)


async def first_part(client: discord.Client, channel: discord.PartialMessageable, reply: Reply) -> str | None:
    """The id of the first message of a reply's answer: the oldest one with its buttons; later ones have Stop."""
    found = [
        message.id
        async for message in _own_messages(client, channel, int(reply.question_id))
        if any(button.request_id == reply.request_id for button in buttons_of(message))
    ]
    return str(min(found)) if found else None


async def part_after(client: discord.Client, channel: discord.PartialMessageable, first: str, part: int) -> str | None:
    """The id of a later part, found by following the references from the first one."""
    next_part: dict[int, str] = {}  # by the message that is referenced
    async for message in channel.history(limit=MAX_READ, after=discord.Object(int(first)), oldest_first=True):
        if _is_own(client, message) and message.reference and message.reference.message_id:
            next_part.setdefault(message.reference.message_id, str(message.id))
    found: str | None = first
    for _ in range(part):
        found = next_part.get(int(found)) if found else None
    return found


async def _own_messages(
    client: discord.Client, channel: discord.PartialMessageable, question: int
) -> AsyncIterator[discord.Message]:
    """Our messages since a question: the newest ones first, then, in a busy channel, those right after the question."""
    oldest = None
    async for message in channel.history(limit=MAX_READ):
        oldest = message
        if message.id <= question:
            return
        if _is_own(client, message):
            yield message
    if oldest is None:
        return
    async for message in channel.history(
        limit=MAX_READ, after=discord.Object(question), before=oldest, oldest_first=True
    ):
        if _is_own(client, message):
            yield message


def _is_own(client: discord.Client, message: discord.Message) -> bool:
    return client.user is not None and message.author.id == client.user.id
