"""Tests lost, dead or refused connections with the real service: outages, half-open connections, revoked tokens."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from adapters.discord.adapter import DiscordAdapter
from adapters.discord.gateway.gateway import GatewayTiming
from adapters.slack.adapter import SlackAdapter
from adapters.slack.outbound.rate_limits import RateLimits
from bot.models.catalog import Catalog
from bot.platforms.adapter import Adapter
from bot.service.service import Service
from bot.types.errors import ConfigError
from tests.support.builders import slack_adapter
from tests.support.builders.discord_adapter import QUICK
from tests.support.builders.discord_service import answered_once, labels, run_discord_service
from tests.support.builders.platform_services import Platform, only_asked
from tests.support.builders.service import MACHINE, make_settings
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.gates import Gates
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.slack_server import FakeSlack

pytest_plugins = ["tests.support.fixtures.both_platforms"]

BEAT = 0.3
"""Seconds between heartbeats (41.25 on Discord)."""


@pytest.mark.fault(10)
async def test_of_sixty_mentions_in_ten_minutes_fifty_are_answered_and_none_twice(
    tmp_path: Path, platform: Platform
) -> None:
    platform.takes_all_calls()
    async with platform.open(tmp_path, per_user=100) as setup:
        first = await setup.ana.says(setup.general, "before", mention=True)
        await setup.answer_to(first)
    if platform.name == "slack":
        platform.server.subscribe_only()  # otherwise Slack delivers them by itself
    missed = []
    for number in range(60):
        missed.append(await setup.ana.says(setup.general, f"number {number}", mention=True))
        await asyncio.sleep(0.001)  # Slack identifies messages by their time
    async with platform.open(tmp_path, earlier=setup, per_user=100) as again:
        await again.server.until(lambda: len(again.general.messages) == 51, 30)
        for question in missed[:50]:
            await again.answer_to(question)
        if platform.name == "slack":
            platform.server.subscribe_only("app_mention", "message.channels")
        await only_asked(again, *(f"number {number}" for number in range(50)))
    async with platform.open(tmp_path, earlier=again, per_user=100) as third:
        await third.server.until(lambda: len(third.general.messages) == 61, 30)
        for question in [first, *missed]:
            await third.answer_to(question)
        await only_asked(third, *(f"number {number}" for number in range(50, 60)))
        assert len(third.general.messages) == 61


@pytest.mark.fault(9)
@pytest.mark.fault(14)
async def test_a_line_to_discord_that_does_not_even_close_is_left_within_two_beats(tmp_path: Path) -> None:
    async with FakeDiscord() as server:
        server.gateway.heartbeat_interval = BEAT
        timing = GatewayTiming(heartbeat=BEAT * GatewayTiming().heartbeat / 41.25, guilds=0.05, gap=0.1)
        async with run_discord_service(tmp_path, server, timing=timing) as setup:
            server.gateway.freeze(answer_close=False)
            began = time.monotonic()
            question = await setup.ana.says(setup.general, "hello", mention=True)
            await server.until(lambda: server.gateway.resumes, 60)
            assert time.monotonic() - began < 2 * BEAT + 1.0
            await answered_once(setup, question)


@dataclass(slots=True)
class Both:
    """One service on both platforms."""

    discord: FakeDiscord
    slack: FakeSlack
    running: asyncio.Task[None]

    async def discord_answers(self, text: str) -> None:
        """Asserts that a question on Discord is answered."""
        channel = self.discord.text_channel(text)
        await self.discord.user("ana").says(channel, text, mention=True)
        await self.discord.until(lambda: any("Regenerate" in labels(each) for each in channel.messages))
        assert [each.content for each in channel.messages] == [f"You said: {text}"]

    async def slack_answers(self, text: str) -> None:
        """Asserts that a question on Slack is answered."""
        ana, channel = self.slack.user("ana"), self.slack.channel(text)
        await ana.says(channel, text, mention=True)
        await self.slack.until(lambda: any("Regenerate" in each.labels for each in channel.messages))
        assert [each.shown for each in channel.messages] == [f"You said: {text}"]


@asynccontextmanager
async def on_both(root: Path) -> AsyncIterator[Both]:
    async with FakeDiscord() as discord, FakeSlack() as slack:
        settings = make_settings(root, discord_bot_token=discord.token, **slack.settings())
        adapters: list[Adapter] = [
            DiscordAdapter(settings, discord.connector, QUICK),
            SlackAdapter(settings, slack_adapter.QUICK, RateLimits(scale=0.01)),
        ]
        service = Service(settings, Catalog.of(settings), adapters, ScriptedEngine(Gates().passing))
        with patch("bot.models.installed_models.probe", return_value=MACHINE):
            running = asyncio.create_task(service.run())
            try:
                await discord.until(lambda: discord.commands or running.done())
                await slack.until(lambda: slack.sockets.online or running.done())
                yield Both(discord, slack, running)
            finally:
                service.stop()
                service.stop()
                await asyncio.wait([running], timeout=20)
                running.cancelled() or running.exception()


@pytest.mark.fault(12)
@pytest.mark.parametrize("code", [4004, 4014])
async def test_when_discord_refuses_the_bot_later_slack_goes_on(
    tmp_path: Path, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with on_both(tmp_path) as both:
        await both.discord_answers("before")
        both.discord.gateway.close(code)
        await both.discord.until(lambda: "discord is stopped: " in caplog.text)
        assert "https://discord.com/developers/applications/" in caplog.text
        for text in ("one", "two"):
            await both.slack_answers(text)
        assert len(both.discord.gateway.identifies) == 1
        assert not both.running.done()


@pytest.mark.fault(12)
async def test_when_slack_refuses_the_bot_later_discord_goes_on_and_with_both_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with on_both(tmp_path) as both:
        await both.slack_answers("before")
        both.slack.refuse_token("token_revoked")
        both.slack.sockets.kill()
        await both.slack.until(lambda: "slack is stopped: " in caplog.text)
        await both.discord_answers("one")
        both.discord.gateway.close(4004)
        with pytest.raises(ConfigError, match="DISCORD_BOT_TOKEN"):
            await asyncio.wait_for(both.running, 10)
