"""Builds the Slack adapter on the fake Slack.

async with run_slack_adapter() as setup:
    await setup.ana.says(setup.general, "hello", mention=True)
    event = await setup.core.message()
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapters.slack.adapter import SlackAdapter
from adapters.slack.outbound.rate_limits import RateLimits
from adapters.slack.socket.session import SocketTiming
from bot.config.settings import Settings
from bot.types.messages import ActionKind, ConversationKey, Reply
from bot.types.messages import Person as Author
from tests.support.fakes.recording_core import RecordingCore
from tests.support.fakes.slack.payloads import TEAM_ID
from tests.support.fakes.slack_server import Channel, FakeSlack, Message, Person

QUICK = SocketTiming(ping=2.0, watch=0.05, hello=5.0, retry=0.05, max_retry=0.5)
REQUEST = "0" * 31 + "1"


def settings_of(server: FakeSlack, **more: Any) -> Settings:  # Any: values of settings
    """Settings with the fake's tokens and nothing of this machine."""
    return Settings(**{**server.settings(), "state_dir": Path("state"), **more})


def key_of(channel: Channel, thread: Message | str = "") -> ConversationKey:
    """The conversation key of a channel of the fake, or of a thread in it."""
    ts = thread if isinstance(thread, str) else thread.thread_ts or thread.ts
    return ConversationKey("slack", TEAM_ID, channel.id, ts)


def reply_to(question: Message, text: str = "", **more: Any) -> Reply:  # Any: the fields of a Reply
    """The first message of an answer to `question`."""
    thread = "" if question.channel.person and not question.thread_ts else question
    reply = Reply(
        reply_id="a" * 20,
        request_id=REQUEST,
        key=key_of(question.channel, thread),
        part=0,
        question_id=question.ts,
        asker=Author(question.author.id, question.author.name),
        committed=text,
        buttons=(ActionKind.STOP,),
    )
    return replace(reply, **more)


@dataclass(slots=True)
class SlackAdapterSetup:
    """A connected adapter, two users and a channel."""

    server: FakeSlack
    adapter: SlackAdapter
    core: RecordingCore
    running: asyncio.Task[None]
    ana: Person
    ben: Person
    general: Channel


@asynccontextmanager
async def run_slack_adapter(
    server: FakeSlack | None = None,
    *,
    core: RecordingCore | None = None,
    timing: SocketTiming = QUICK,
    **settings: Any,  # Any: values of settings
) -> AsyncIterator[SlackAdapterSetup]:
    """Connects an adapter to a new fake, or to a given one."""
    if server is None:
        async with FakeSlack() as server, run_slack_adapter(server, core=core, timing=timing, **settings) as setup:
            yield setup
        return
    core = core or RecordingCore()
    adapter = SlackAdapter(settings_of(server, **settings), timing, RateLimits(scale=0.01))
    ana, ben, general = server.user("ana"), server.user("ben"), server.channel("general")
    server.limits.scale = 0.01
    caught_up = core.caught_up
    running = asyncio.create_task(adapter.run(core), name="adapter")
    try:
        await server.until(lambda: running.done() or (core.caught_up > caught_up and server.sockets.online))
        yield SlackAdapterSetup(server, adapter, core, running, ana, ben, general)
    finally:
        await adapter.close()
        async with asyncio.timeout(10):
            await asyncio.gather(running, return_exceptions=True)
