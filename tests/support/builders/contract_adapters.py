"""Builds each platform for the adapter contract tests: the adapter on its fake, behind one interface."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from adapters.discord.gateway.gateway import GatewayTiming
from bot.platforms.adapter import Adapter
from bot.types.messages import ConversationKey, IncomingMessage, Person, Reply
from tests.support.builders import slack_adapter
from tests.support.builders.discord_adapter import reply_to, run_discord_adapter
from tests.support.fakes.discord import Can
from tests.support.fakes.recording_core import RecordingCore
from tests.support.fakes.scripted_adapter import ScriptedAdapter
from tests.support.fakes.scripted_platform import Fault, ScriptedPlatform


@dataclass(frozen=True, slots=True)
class Place:
    """A channel with one question; `reply` is an answer that is not posted yet."""

    adapter: Adapter
    core: RecordingCore
    running: "asyncio.Task[None]"
    reply: Reply
    shown: Callable[[], Sequence[str]]  # the bot's messages as currently shown
    asks: Callable[[str], Awaitable[str]]  # posts one more question; returns its message id
    loses_the_answer: Callable[[], object]  # the next post is applied, but its response is lost
    refuses_posts: Callable[[], object]
    takes_away: Callable[[], Awaitable[object]]  # deletes what the bot posted


@asynccontextmanager
async def scripted() -> AsyncIterator[Place]:
    """The scripted platform that the core's tests use."""
    core, ana = RecordingCore(), Person("ana", "Ana")
    key = ConversationKey("scripted", "", "room")
    async with ScriptedPlatform() as platform:
        adapter = ScriptedAdapter(platform.port)
        running = asyncio.create_task(adapter.run(core))
        await platform.connected()
        numbers = iter(range(1, 100))

        async def asks(text: str) -> str:
            number = next(numbers)
            message = IncomingMessage(key, f"m{number}", ana, text, float(number), addressed=True)
            await platform.outcome(await platform.send(message))
            return message.message_id

        async def takes_away() -> None:
            platform.fails("update", Fault.GONE)

        try:
            yield Place(
                adapter=adapter,
                core=core,
                running=running,
                reply=Reply("a" * 20, "0" * 32, key, 0, await asks("hello"), ana, ""),
                shown=lambda: [message.text for message in platform.posted],
                asks=asks,
                loses_the_answer=lambda: platform.fails("post", Fault.LOST),
                refuses_posts=lambda: platform.fails("post", Fault.REJECTED),
                takes_away=takes_away,
            )
        finally:
            await adapter.close()
            await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def discord() -> AsyncIterator[Place]:
    """The real discord.py on the fake Discord."""
    async with run_discord_adapter(timing=GatewayTiming(guilds=0.05, gap=0.1, answer=1.0)) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        posts = "/channels/{channel_id}/messages"
        moderator = setup.server.user("mia", can=Can.MANAGE_MESSAGES)

        async def asks(text: str) -> str:
            return (await setup.ana.says(setup.general, text, mention=True)).id

        async def takes_away() -> None:
            for message in setup.general.messages:
                await moderator.deletes(message)

        yield Place(
            adapter=setup.adapter,
            core=setup.core,
            running=setup.running,
            reply=reply_to(question),
            shown=lambda: [message.content for message in setup.general.messages],
            asks=asks,
            loses_the_answer=lambda: setup.server.faults.freeze("POST", posts, applied=True),
            refuses_posts=lambda: setup.general.deny(Can.SEND_MESSAGES),
            takes_away=takes_away,
        )


@asynccontextmanager
async def slack() -> AsyncIterator[Place]:
    """The real slack-bolt on the fake Slack."""
    async with slack_adapter.run_slack_adapter() as setup:
        dm = setup.server.dm(setup.ana)
        question = await setup.ana.says(dm, "hello")
        moderator = setup.server.user("mia", admin=True)

        async def asks(text: str) -> str:
            return (await setup.ana.says(dm, text)).ts

        async def takes_away() -> None:
            for message in dm.messages:
                await moderator.deletes(message)

        yield Place(
            adapter=setup.adapter,
            core=setup.core,
            running=setup.running,
            reply=slack_adapter.reply_to(question),
            shown=lambda: [message.shown for message in dm.messages],
            asks=asks,
            loses_the_answer=lambda: setup.server.faults.drop("chat.postMessage", applied=True),
            refuses_posts=lambda: setattr(dm, "read_only", True),
            takes_away=takes_away,
        )


ADAPTERS = {"scripted": scripted, "discord": discord, "slack": slack}
