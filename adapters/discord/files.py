"""Files that come with a message: text becomes part of it, the rest is told in a sentence.

In: Discord's attachments. Out: our attachments, and what to say about those that could not be read. A file is text if
its content is, whatever its name says; how much is read is bounded.
"""

import asyncio
import codecs
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import discord

from bot.messages import Attachment

MOST_FILES = 5
MOST_BYTES = 200_000
PATIENCE_S = 10.0

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is the beginning of it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\r\f\x1b")


@dataclass(frozen=True, slots=True)
class Files:
    """What was read, and a sentence for every file that was not."""

    texts: tuple[Attachment, ...] = ()
    remark: str = ""


def decoded(data: bytes) -> str | None:
    """The text that a file holds, or None if it holds no text: UTF-8, UTF-16 and UTF-32 with a mark, Windows-1252."""
    try:
        for mark, encoding in _BOMS:
            if data.startswith(mark):
                return data.decode(encoding)
        if _CONTROLS & set(data):
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data.decode("cp1252")
    except UnicodeDecodeError:
        return None


async def read(attachments: Sequence[discord.Attachment]) -> Files:
    """Fetch and decode the files of a message; never fails."""
    read = await asyncio.gather(*(_read(attachment) for attachment in attachments[:MOST_FILES]))
    remarks = [found for found in read if isinstance(found, str)]
    if len(attachments) > MOST_FILES:
        remarks.append(f"I read only the first {MOST_FILES} files of a message.")
    return Files(tuple(found for found in read if isinstance(found, Attachment)), " ".join(remarks))


async def _read(attachment: discord.Attachment) -> Attachment | str:
    """One file, or the sentence that says why not."""
    name, kind = attachment.filename, attachment.content_type or ""
    if kind.startswith("image/") and "svg" not in kind:
        return f"I cannot see images, so I left out {name}."
    if attachment.size > MOST_BYTES:
        return f"{name} is larger than the {MOST_BYTES // 1000} kB that I read, so I left it out."
    try:
        async with asyncio.timeout(PATIENCE_S):
            data = await attachment.read()
    except (discord.DiscordException, aiohttp.ClientError, OSError, TimeoutError):
        return f"{name} could not be fetched from Discord, so I left it out."
    text = decoded(data[: MOST_BYTES + 1])
    if text is None:
        return f"{name} is not a text file, so I could not read it."
    return Attachment(name, text)
