"""Builds the Discord adapter on the fake Discord.

async with run_discord_adapter() as setup:
    await setup.ana.says(setup.general, "hello", mention=True)
    event = await setup.core.message()
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapters.discord.adapter import DiscordAdapter
from adapters.discord.gateway.gateway import GatewayTiming
from bot.config.settings import Settings
from bot.types.messages import ActionKind, ConversationKey, Reply
from bot.types.messages import Person as Author
from tests.support.fakes.discord import Channel, FakeDiscord, Message, Person
from tests.support.fakes.recording_core import RecordingCore

QUICK = GatewayTiming(guilds=0.05, gap=0.1)
BUTTONS = (ActionKind.REGENERATE, ActionKind.GOOD, ActionKind.BAD)
REQUEST = "0" * 31 + "1"


def settings_of(server: FakeDiscord, **more: Any) -> Settings:  # Any: values of settings
    """Settings with the fake's token and nothing of this machine."""
    return Settings(**{"discord_bot_token": server.token, "state_dir": Path("state"), **more})


def key_of(channel: Channel) -> ConversationKey:
    """The conversation key of a channel of the fake."""
    guild = channel.guild.id if channel.guild else ""
    if channel.parent is not None:
        return ConversationKey("discord", guild, channel.parent.id, channel.id)
    return ConversationKey("discord", guild, channel.id)


def reply_to(question: Message, text: str = "", **more: Any) -> Reply:  # Any: the fields of a Reply
    """The first message of an answer to `question`."""
    reply = Reply(
        reply_id="a" * 20,
        request_id=REQUEST,
        key=key_of(question.channel),
        part=0,
        question_id=question.id,
        asker=Author(question.author.id, question.author.name),
        committed=text,
        buttons=(ActionKind.STOP,),
    )
    return replace(reply, **more)


@dataclass(slots=True)
class DiscordAdapterSetup:
    """A connected adapter, two users and a channel."""

    server: FakeDiscord
    adapter: DiscordAdapter
    core: RecordingCore
    running: asyncio.Task[None]
    ana: Person
    ben: Person
    general: Channel


@asynccontextmanager
async def run_discord_adapter(
    server: FakeDiscord | None = None,
    *,
    core: RecordingCore | None = None,
    message_content: bool = True,
    timing: GatewayTiming = QUICK,
    **settings: Any,  # Any: values of settings
) -> AsyncIterator[DiscordAdapterSetup]:
    """Connects an adapter to a new fake, or to a given one."""
    if server is None:
        async with (
            FakeDiscord(message_content=message_content) as server,
            run_discord_adapter(server, core=core, timing=timing, **settings) as setup,
        ):
            yield setup
        return
    core = core or RecordingCore()
    adapter = DiscordAdapter(settings_of(server, **settings), server.connector, timing)
    ana, ben = server.user("ana"), server.user("ben")
    general = server.text_channel("general")
    caught_up = core.caught_up
    running = asyncio.create_task(adapter.run(core))
    try:
        await server.until(lambda: running.done() or (core.caught_up > caught_up and server.commands))
        yield DiscordAdapterSetup(server, adapter, core, running, ana, ben, general)
    finally:
        await adapter.close()
        async with asyncio.timeout(10):
            await asyncio.gather(running, return_exceptions=True)
