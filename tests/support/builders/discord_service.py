"""Builds a whole service with the Discord adapter on the fake Discord and a scripted engine.

async with run_discord_service(tmp_path, server) as setup:
    question = await setup.ana.says(setup.general, "hello", mention=True)
    assert await setup.answer_to(question) == "You said: hello"
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from adapters.discord.adapter import DiscordAdapter
from adapters.discord.gateway.gateway import GatewayTiming
from bot.models.catalog import Catalog
from bot.service.service import Service
from tests.support.builders.discord_adapter import QUICK
from tests.support.builders.service import MACHINE, make_settings
from tests.support.fakes.discord import Channel, FakeDiscord, Message, Person
from tests.support.fakes.gates import Gates
from tests.support.fakes.scripted_engine import ScriptedEngine

DONE = "Regenerate"
"""The label of the button under a finished answer."""


@dataclass(slots=True)
class DiscordServiceSetup:
    """A running service, its fake Discord, two users and a channel."""

    server: FakeDiscord
    adapter: DiscordAdapter
    engine: ScriptedEngine
    gates: Gates
    service: Service
    running: asyncio.Task[None]
    ana: Person
    ben: Person
    general: Channel

    def answers_to(self, question: Message) -> list[list[Message]]:
        """The finished answers to a question, each as the list of its messages."""
        shown = (question.thread or question.channel).messages
        firsts = [each for each in shown if each.reference is question and labels(each) & {DONE, "Continue"}]
        return [[first, *_parts_after(first, shown)] for first in firsts]

    async def dies(self) -> None:
        """Cancels the service without a drain, like a crash."""
        self.service.stop()
        self.service.stop()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def answer_to(
        self,
        question: Message,
        ends: str = "",
        timeout: float = 10.0,  # noqa: ASYNC109 -- reads well
    ) -> str:
        """Waits for the one finished answer to a question (whose last message ends with `ends`); its text."""

        def finished() -> bool:
            return any(parts[-1].content.endswith(ends) for parts in self.answers_to(question))

        await self.server.until(finished, timeout)
        (answer,) = self.answers_to(question)
        return "\n".join(message.content for message in answer)


async def answered_once(setup: DiscordServiceSetup, *questions: Message) -> None:
    """Asserts that each question has exactly one finished answer, and that nothing else was posted or pinged."""
    for question in questions:
        assert await setup.answer_to(question) == f"You said: {question.content.partition(' ')[2]}"
    assert len(setup.general.messages) == len(questions)
    assert not setup.server.pings
    assert setup.server.rate_limited == 0


def labels(message: Message) -> set[str]:
    """The labels of a message's buttons."""
    return {str(button.get("label")) for button in message.buttons}


def _parts_after(first: Message, shown: list[Message]) -> list[Message]:
    parts: list[Message] = []
    while found := [each for each in shown if each.reference is (parts[-1] if parts else first)]:
        parts.append(found[0])
    return parts


@asynccontextmanager
async def run_discord_service(
    root: Path,
    server: FakeDiscord,
    *,
    earlier: DiscordServiceSetup | None = None,
    timing: GatewayTiming = QUICK,
    engine: ScriptedEngine | None = None,
    min_interval_s: float = 0.0,
    connected: bool = True,
    **settings: Any,  # Any: values of settings
) -> AsyncIterator[DiscordServiceSetup]:
    """Runs a service in `root`. `earlier`: the previous service in the same root, whose users and channel it keeps."""
    made = make_settings(root, discord_bot_token=server.token, **settings)
    gates = Gates()
    engine = engine or ScriptedEngine(gates.passing)
    adapter = DiscordAdapter(made, server.connector, timing)
    adapter.limits = replace(adapter.limits, min_interval_s=min_interval_s)
    service = Service(made, Catalog.of(made), [adapter], engine)
    before = len(server.gateway.identifies)
    ana, ben = (earlier.ana, earlier.ben) if earlier else (server.user("ana"), server.user("ben"))
    general = earlier.general if earlier else server.text_channel("general")
    with patch("bot.models.installed_models.probe", return_value=MACHINE):
        running = asyncio.create_task(service.run(), name="service")
        try:
            if connected:
                await server.until(
                    lambda: running.done() or (len(server.gateway.identifies) > before and server.commands)
                )
            yield DiscordServiceSetup(server, adapter, engine, gates, service, running, ana, ben, general)
        finally:
            service.stop()
            service.stop()
            async with asyncio.timeout(20):
                await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled() or running.exception() is None or not connected
