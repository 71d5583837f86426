"""Downloads and decodes the files of a Discord message; text files become attachments, others a sentence."""

import asyncio
from collections.abc import Sequence

import aiohttp
import discord

from bot.platforms.textfiles import MOST_FILES, Files, gathered, read_as_text, refusal
from bot.types.display_names import as_code
from bot.types.messages import Attachment

PATIENCE_S = 10.0


async def read(attachments: Sequence[discord.Attachment]) -> Files:
    """Download and decode the files of a message; raises nothing."""
    found = await asyncio.gather(*(_read(attachment) for attachment in attachments[:MOST_FILES]))
    return gathered(found, len(attachments))


async def _read(attachment: discord.Attachment) -> Attachment | str:
    """One file, or a sentence why it was skipped."""
    name = attachment.filename
    if sentence := refusal(name, attachment.content_type or "", attachment.size):
        return sentence
    try:
        async with asyncio.timeout(PATIENCE_S):
            data = await attachment.read()
    except (discord.DiscordException, aiohttp.ClientError, OSError, TimeoutError):
        return f"{as_code(name)} could not be fetched from Discord, so I left it out."
    return read_as_text(name, data)
