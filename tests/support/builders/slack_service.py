"""A whole service with the Slack adapter on a Slack of our own and a scripted engine.

async with open_house(tmp_path, server) as house:
    question = await house.ana.says(house.general, "hello", mention=True)
    assert await house.answer_to(question) == "You said: hello"
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
from tests.support.fakes.engine import ScriptedEngine
from tests.support.fakes.gates import Gates
from tests.support.fakes.slack_server import Channel, FakeSlack, Message, Person

DONE = {"Regenerate", "Continue"}
"""The buttons of which a finished answer has one."""


@dataclass(slots=True)
class House:
    """A running service, its Slack, and who is there."""

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
        """What the bot said where a question is answered, since it was asked."""
        thread = question.thread_ts or ("" if question.channel.person else question.ts)
        return [each for each in question.channel.messages if each.thread_ts == thread and each.ts > question.ts]

    def answers_to(self, question: Message) -> list[Message]:
        """The finished answers after a question (of one message each)."""
        return [each for each in self.after(question) if DONE & set(each.labels)]

    async def dies(self) -> None:
        """End without a word, in the middle of whatever it does."""
        self.service.stop()
        self.service.stop()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def answer_to(self, question: Message, timeout: float = 10.0) -> str:  # noqa: ASYNC109 -- reads well
        """The text of the one answer to the last question of a thread, once it is finished."""
        await self.server.until(lambda: self.answers_to(question), timeout)
        (answer,) = self.answers_to(question)
        return answer.shown


async def answered_once(house: House, *questions: Message) -> None:
    """Every question has one finished answer, and there is nothing else; nobody was pinged."""
    for question in questions:
        assert await house.answer_to(question) == f"You said: {question.text.partition(' ')[2]}"
    assert len(house.general.messages) == len(questions)
    assert not house.server.pings
    assert not house.server.unfurls
    assert house.server.rate_limited == 0


@asynccontextmanager
async def open_house(
    root: Path,
    server: FakeSlack,
    *,
    earlier: House | None = None,
    timing: SocketTiming = QUICK,
    engine: ScriptedEngine | None = None,
    connected: bool = True,
    **settings: Any,  # Any: whatever a setting takes
) -> AsyncIterator[House]:
    """A service that lives in `root` until the block ends. `earlier`: one that lived there before."""
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
            yield House(server, adapter, engine, gates, service, running, ana, ben, general)
        finally:
            service.stop()
            service.stop()
            async with asyncio.timeout(20):
                await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled() or running.exception() is None or not connected
