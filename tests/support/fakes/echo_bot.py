"""A small bot on the real discord.py, for the tests of the fake Discord itself.

It answers 'echo ...', has two persistent buttons, two slash commands and a context-menu command, and records messages
and edits.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import discord
from discord import app_commands

from tests.support.fakes.discord import FakeDiscord

Pressed = discord.Interaction[discord.Client]


class Buttons(discord.ui.View):
    """The buttons under an answer."""

    def __init__(self) -> None:
        super().__init__(timeout=None)

    @discord.ui.button(label="Stop", custom_id="stop:1")
    async def stop_it(self, interaction: Pressed, button: discord.ui.Button[Self]) -> None:
        """Removes the buttons."""
        await interaction.response.edit_message(content="stopped", view=None)

    @discord.ui.button(label="Good", custom_id="good:1")
    async def good(self, interaction: Pressed, button: discord.ui.Button[Self]) -> None:
        """Thanks the user in an ephemeral message."""
        await interaction.response.send_message("thanks", ephemeral=True)


class EchoBot(discord.Client):
    """The bot. `content`: requests the message content intent."""

    def __init__(self, server: FakeDiscord, content: bool, heartbeat_timeout: float) -> None:
        intents = discord.Intents.default()
        intents.message_content = content
        super().__init__(
            intents=intents,
            connector=server.connector(),
            guild_ready_timeout=0.1,
            allowed_mentions=discord.AllowedMentions.none(),
            heartbeat_timeout=heartbeat_timeout,
        )
        self.tree = app_commands.CommandTree(self)
        self.seen: list[discord.Message] = []
        self.edits: list[discord.RawMessageUpdateEvent] = []
        self.is_up = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.resumed = 0

    async def setup_hook(self) -> None:
        """Registers the persistent buttons."""
        self.add_view(Buttons())

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Skips discord.py's wait of five seconds before another IDENTIFY."""

    async def on_ready(self) -> None:
        """Sets `is_up`."""
        self.is_up.set()

    async def on_resumed(self) -> None:
        """Counts RESUMEDs."""
        self.resumed += 1

    async def on_message(self, message: discord.Message) -> None:
        """Records each message, and answers those that contain 'echo'."""
        if message.author.bot:
            return
        self.seen.append(message)
        _, found, text = message.content.partition("echo ")
        if found:
            await message.reply(text)

    async def on_raw_message_edit(self, event: discord.RawMessageUpdateEvent) -> None:
        """Records every update."""
        self.edits.append(event)

    def ended_with(self) -> BaseException | None:
        """The exception that ended the bot's task, None while it runs."""
        return self.task.exception() if self.task is not None and self.task.done() else None

    def texts(self) -> list[str]:
        """The texts of all messages that it received."""
        return [message.content for message in self.seen]


@asynccontextmanager
async def running(server: FakeDiscord, content: bool = True, heartbeat_timeout: float = 60.0) -> AsyncIterator[EchoBot]:
    """Starts a bot and waits until it is ready. Raises what its start raised."""
    bot = EchoBot(server, content, heartbeat_timeout)
    task = bot.task = asyncio.create_task(bot.start(server.token))
    up = asyncio.create_task(bot.is_up.wait())
    await asyncio.wait([task, up], return_when=asyncio.FIRST_COMPLETED, timeout=10)
    up.cancel()
    try:
        if task.done():
            task.result()
        yield bot
    finally:
        await bot.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
