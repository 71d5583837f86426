"""Builds a whole service with the Slack adapter on the fake Slack and a scripted engine.

async with run_slack_service(tmp_path, server) as setup:
    question = await setup.ana.says(setup.general, "hello", mention=True)
    assert await setup.answer_to(question) == "You said: hello"
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from adapters.slack.adapter import SlackAdapter
from adapters.slack.outbound.rate_limits import RateLimits
from adapters.slack.socket.session import SocketTiming
from bot.models.catalog import Catalog
from bot.service.service import Service
from tests.support.builders.service import MACHINE, make_settings
from tests.support.builders.slack_adapter import QUICK
from tests.support.fakes.gates import Gates
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.slack_server import Channel, FakeSlack, Message, Person

DONE = {"Regenerate", "Continue"}
"""A finished answer has one of these buttons."""


@dataclass(slots=True)
class SlackServiceSetup:
    """A running service, its fake Slack, two users and a channel."""

    server: FakeSlack
    adapter: SlackAdapter
    engine: ScriptedEngine
    gates: Gates
    service: Service
    running: asyncio.Task[None]
    ana: Person
    ben: Person
    general: Channel

    def after(self, question: Message) -> list[Message]:
        """The bot's messages in the thread or DM of a question, after that question."""
        thread = question.thread_ts or ("" if question.channel.person else question.ts)
        return [each for each in question.channel.messages if each.thread_ts == thread and each.ts > question.ts]

    def answers_to(self, question: Message) -> list[Message]:
        """The finished answers after a question (one message each)."""
        return [each for each in self.after(question) if DONE & set(each.labels)]

    async def dies(self) -> None:
        """Cancels the service without a drain, like a crash."""
        self.service.stop()
        self.service.stop()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def answer_to(self, question: Message, timeout: float = 10.0) -> str:  # noqa: ASYNC109 -- reads well
        """Waits for the one finished answer to the last question of a thread; its text."""
        await self.server.until(lambda: self.answers_to(question), timeout)
        (answer,) = self.answers_to(question)
        return answer.shown


async def answered_once(setup: SlackServiceSetup, *questions: Message) -> None:
    """Asserts that each question has exactly one finished answer, and that nothing else was posted, pinged or
    unfurled."""
    for question in questions:
        assert await setup.answer_to(question) == f"You said: {question.text.partition(' ')[2]}"
    assert len(setup.general.messages) == len(questions)
    assert not setup.server.pings
    assert not setup.server.unfurls
    assert setup.server.rate_limited == 0


@asynccontextmanager
async def run_slack_service(
    root: Path,
    server: FakeSlack,
    *,
    earlier: SlackServiceSetup | None = None,
    timing: SocketTiming = QUICK,
    engine: ScriptedEngine | None = None,
    connected: bool = True,
    **settings: Any,  # Any: values of settings
) -> AsyncIterator[SlackServiceSetup]:
    """Runs a service in `root`. `earlier`: the previous service in the same root, whose users and channel it keeps."""
    made = make_settings(root, **{**server.settings(), **settings})
    gates = Gates()
    engine = engine or ScriptedEngine(gates.passing)
    server.limits.scale = 0.01
    adapter = SlackAdapter(made, timing, RateLimits(scale=0.01))
    service = Service(made, Catalog.of(made), [adapter], engine)
    before = server.sockets.opened
    ana, ben = (earlier.ana, earlier.ben) if earlier else (server.user("ana"), server.user("ben"))
    general = earlier.general if earlier else server.channel("general")
    with patch("bot.models.installed_models.probe", return_value=MACHINE):
        running = asyncio.create_task(service.run(), name="service")
        try:
            if connected:
                await server.until(lambda: running.done() or (server.sockets.opened > before and server.sockets.online))
            yield SlackServiceSetup(server, adapter, engine, gates, service, running, ana, ben, general)
        finally:
            service.stop()
            service.stop()
            async with asyncio.timeout(20):
                await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled() or running.exception() is None or not connected
