"""Tests the gateway connection: what ends a session, what ends the adapter, and the budget of IDENTIFYs."""

import asyncio
import gc
import logging

import aiohttp
import discord
import pytest

from adapters.discord.adapter import DiscordAdapter
from adapters.discord.gateway.gateway import GatewayTiming, proxy_for
from adapters.discord.gateway.reconnect_backoff import HOUR_S, MAX_WAIT_S, ReconnectBackoff
from bot.config.settings import Settings
from bot.types.errors import FatalAdapterError, StorageError
from bot.types.messages import Accepted, Event, Outcome
from tests.support.builders.discord_adapter import run_discord_adapter, settings_of
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.recording_core import RecordingCore

pytest_plugins = ["tests.support.fixtures.http_sessions"]


async def ended(server: FakeDiscord, **settings: object) -> str:
    """The error with which an adapter ends before it is connected."""
    adapter = DiscordAdapter(settings_of(server, **settings), server.connector, GatewayTiming(guilds=0.05, gap=0.1))
    with pytest.raises(FatalAdapterError) as error:
        async with asyncio.timeout(10):
            await adapter.run(RecordingCore())
    return str(error.value)


async def test_a_wrong_token_ends_it_with_the_page_that_gives_another() -> None:
    async with FakeDiscord() as server:
        said = await ended(server, discord_bot_token="wrong")
        assert "DISCORD_BOT_TOKEN" in said
        assert "https://discord.com/developers/applications" in said
        assert not server.gateway.identifies
        server.gateway.refuse_identify(4004)
        assert f"https://discord.com/developers/applications/{server.application_id}/bot" in await ended(server)
        assert len(server.gateway.identifies) == 1


@pytest.mark.fault(12)
@pytest.mark.parametrize("code", [4010, 4011, 4012, 4013, 4014])
async def test_refusals_for_good_end_it_with_what_to_do(code: int) -> None:
    async with FakeDiscord() as server:
        server.gateway.refuse_identify(code)
        said = await ended(server)
        assert ("Message Content Intent" in said) == (code == 4014)
        assert len(server.gateway.identifies) == 1


@pytest.mark.fault(12)
@pytest.mark.parametrize("code", [4004, 4014])
async def test_a_refusal_later_ends_it_too(code: int) -> None:
    async with run_discord_adapter() as setup:
        setup.server.gateway.close(code)
        with pytest.raises(FatalAdapterError):
            async with asyncio.timeout(10):
                await setup.running


@pytest.mark.parametrize("switched_on", [True, False])
async def test_the_content_intent_is_asked_for_only_where_the_portal_allows_it(switched_on: bool) -> None:
    async with run_discord_adapter(message_content=switched_on) as setup:
        (identify,) = setup.server.log.received(op=2)
        assert isinstance(identify.data, dict)
        assert bool(identify.data["intents"] & 1 << 15) == switched_on


async def test_a_new_session_reads_back_and_a_resumed_one_does_not() -> None:
    async with run_discord_adapter() as setup:
        assert setup.core.caught_up == 1
        setup.server.gateway.reconnect()
        await setup.server.until(lambda: setup.server.gateway.resumes)
        await setup.ana.says(setup.general, "heard", mention=True)
        await setup.core.message()
        assert setup.core.caught_up == 1
        setup.server.gateway.invalidate()
        await setup.server.until(lambda: setup.core.caught_up == 2)
        assert len(setup.server.gateway.identifies) == 2


async def test_a_connection_that_stays_lost_is_told_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.discord.gateway.client.RESUME_S", 0.2)
    async with run_discord_adapter() as setup:
        await setup.server.until(lambda: setup.adapter.connected)
        setup.server.gateway.refuse_connections(1000)
        setup.server.gateway.abort()
        await setup.server.until(lambda: not setup.adapter.connected, timeout=30)
        setup.server.gateway.refuse_connections(0)
        await setup.server.until(lambda: setup.adapter.connected and setup.server.gateway.online, timeout=60)


async def test_a_connection_that_is_resumed_soon_counts_as_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.discord.gateway.client.RESUME_S", 600.0)
    async with run_discord_adapter() as setup:
        await setup.server.until(lambda: setup.adapter.connected)
        setup.server.gateway.refuse_connections(1)  # the RESUME comes with the second attempt
        setup.server.gateway.reconnect()
        await setup.server.until(lambda: not setup.adapter.connected or setup.server.gateway.resumes, timeout=60)
        assert setup.adapter.connected


async def test_reading_back_begins_before_anything_new_is_heard() -> None:
    begun: list[int] = []

    def says(event: Event) -> Outcome:
        begun.append(core.caught_up)
        return Accepted("request")

    core = RecordingCore(says=says)
    async with run_discord_adapter(core=core, timing=GatewayTiming(guilds=0.5, gap=0.1)) as setup:
        setup.server.gateway.invalidate()
        await setup.server.until(lambda: len(setup.server.gateway.identifies) == 2 and setup.server.gateway.online)
        await setup.ana.says(setup.general, "hello", mention=True)
        await core.message()
        assert begun == [2]


async def test_a_first_connection_that_fails_is_tried_again() -> None:
    async with FakeDiscord() as server:
        server.gateway.refuse_connections(2)
        async with run_discord_adapter(server) as setup:
            await setup.ana.says(setup.general, "hello", mention=True)
            await setup.core.message()


@pytest.mark.fault(44)
async def test_an_event_that_breaks_the_session_costs_that_and_nothing_else() -> None:
    async with run_discord_adapter() as setup:
        setup.server.gateway.send(event="RESUMED", data=5)
        await setup.server.until(lambda: setup.core.caught_up == 2)
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.core.message()
        assert len(setup.server.gateway.identifies) == 2


@pytest.mark.fault(9)
async def test_a_dead_connection_is_left_and_the_session_taken_up_again() -> None:
    async with FakeDiscord() as server:
        server.gateway.heartbeat_interval = 0.3
        async with run_discord_adapter(server, timing=GatewayTiming(heartbeat=0.6, guilds=0.05, gap=0.1)) as setup:
            server.gateway.freeze()
            await setup.ana.says(setup.general, "into the void", mention=True)
            assert (await setup.core.message()).text == "into the void"
            assert len(server.gateway.identifies) == 1


@pytest.mark.fault(12)
async def test_too_few_sessions_are_waited_for_and_said(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeDiscord() as server:
        server.gateway.session_start.leave(20, reset_after=1.0)
        async with run_discord_adapter(server):
            assert len(server.gateway.identifies) == 1
            assert server.gateway.session_start.remaining == 999, "it was the first one of the new count"
        assert "Only 20 more sessions" in caplog.text


@pytest.mark.fault(12)
async def test_sessions_that_end_at_once_use_up_no_more_than_may_be_used(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeDiscord() as server:
        server.gateway.session_start.leave(22, reset_after=3600)
        async with run_discord_adapter(server):
            server.gateway.invalidate()
            await server.until(lambda: server.gateway.session_start.remaining == 20 and server.gateway.online)
            server.gateway.invalidate()
            await server.until(lambda: "Only 20 more sessions" in caplog.text)
            assert server.gateway.session_start.remaining == 20


def test_a_day_of_failures_spends_a_fraction_of_its_sessions() -> None:
    now = 0.0
    backoff = ReconnectBackoff(clock=lambda: now)
    sessions = 0
    while now < 24 * HOUR_S:
        now += backoff.seconds_to_session() + 0.001
        backoff.record_session()
        sessions += 1
    assert 200 < sessions < 400
    now += HOUR_S + 1
    assert backoff.seconds_to_session() == 0


def test_retries_come_further_and_further_apart_until_it_is_well() -> None:
    backoff = ReconnectBackoff()
    waits = [backoff.next_retry() for _ in range(20)]
    assert waits[0] <= 5
    assert max(waits) <= MAX_WAIT_S
    assert min(waits[-5:]) >= MAX_WAIT_S / 5
    backoff.reset()
    assert backoff.next_retry() <= 5


async def test_presence_tells_what_is_going_on() -> None:
    async with run_discord_adapter() as setup:
        await setup.server.until(lambda: setup.server.presences)
        assert setup.server.presences[-1]["activities"][0]["state"] == "small · idle"
        setup.server.gateway.invalidate()
        await setup.server.until(lambda: setup.core.caught_up == 2 and len(setup.server.presences) == 2)


async def test_what_cannot_be_stored_is_handed_over_again_until_it_can(caplog: pytest.LogCaptureFixture) -> None:
    failures = 3

    def says(event: Event) -> Outcome:
        nonlocal failures
        if failures:
            failures -= 1
            raise StorageError("The disk is full.")
        return Accepted("request")

    caplog.set_level(logging.WARNING, "adapters")
    async with run_discord_adapter(core=RecordingCore(says=says)) as setup:
        for text in ("one", "two"):
            await setup.ana.says(setup.general, text, mention=True)
        assert {(await setup.core.message(number)).text for number in (1, 2)} == {"one", "two"}
        assert caplog.text.count("waits to be stored") == 1


async def test_closing_ends_every_wait() -> None:
    def says(event: Event) -> Outcome:
        raise StorageError("The disk is full.")

    async with run_discord_adapter(core=RecordingCore(says=says)) as setup:
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.adapter.close()
        async with asyncio.timeout(2):
            await setup.running
    async with FakeDiscord() as server:
        server.gateway.session_start.leave(3, reset_after=3600)
        adapter = DiscordAdapter(settings_of(server), server.connector)
        running = asyncio.create_task(adapter.run(RecordingCore()))
        await server.until(lambda: server.log.count("GET", "/gateway/bot"))
        await adapter.close()
        async with asyncio.timeout(2):
            await running
        server.faults.drop("GET", "/users/@me", applied=False, times=100)
        adapter = DiscordAdapter(settings_of(server), server.connector, GatewayTiming(gap=600))
        running = asyncio.create_task(adapter.run(RecordingCore()))
        await server.until(lambda: server.log.count("GET", "/users/@me", status=0) == 2)
        await asyncio.sleep(0.1)
        await adapter.close()
        async with asyncio.timeout(2):
            await running


async def test_a_session_that_is_closed_before_it_is_complete_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with FakeDiscord() as server:
        adapter = DiscordAdapter(settings_of(server), server.connector, GatewayTiming(guilds=0.3, gap=0.1))
        running = asyncio.create_task(adapter.run(RecordingCore()))
        await server.until(lambda: server.gateway.online)
        await asyncio.sleep(0.1)
        await adapter.close()
        await running
    this = asyncio.current_task()
    async with asyncio.timeout(10):
        while left := [task for task in asyncio.all_tasks() if task is not this]:
            await asyncio.wait(left)
    gc.collect()  # a task reports an exception that nobody asked for when it is collected
    assert "never retrieved" not in caplog.text


def test_a_dead_connection_is_left_after_one_beat_and_before_two() -> None:
    beat, closing = 41.25, 30.0
    assert beat < GatewayTiming().heartbeat
    assert GatewayTiming().heartbeat + closing < 2 * beat


def test_the_proxy_is_the_setting_or_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_for(Settings()) is None
    monkeypatch.setenv("https_proxy", "http://everywhere:3128")
    assert proxy_for(Settings()) == "http://everywhere:3128"
    assert proxy_for(Settings(discord_proxy="http://here:3128")) == "http://here:3128"
    monkeypatch.setenv("no_proxy", "discord.com")
    assert proxy_for(Settings()) is None
    assert proxy_for(Settings(discord_proxy="http://here:3128")) == "http://here:3128"


async def test_a_gateway_that_does_not_answer_a_close_leaves_no_session_open(
    monkeypatch: pytest.MonkeyPatch, opened_sessions: list[aiohttp.ClientSession]
) -> None:
    async def no_answer(*_: object, **__: object) -> None:
        await asyncio.sleep(3600)

    async with run_discord_adapter():
        monkeypatch.setattr(discord.gateway.DiscordWebSocket, "close", no_answer)
    assert opened_sessions
    assert all(session.closed for session in opened_sessions)


async def test_a_login_whose_end_is_cut_short_leaves_no_session_open(
    monkeypatch: pytest.MonkeyPatch, opened_sessions: list[aiohttp.ClientSession]
) -> None:
    closes = asyncio.Event()

    async def never(*_: object) -> None:
        closes.set()
        await asyncio.sleep(3600)

    monkeypatch.setattr(discord.Client, "close", never)
    async with FakeDiscord() as server:
        login = server.faults.freeze("GET", "/users/@me", skip=1)  # that of the gateway's client
        adapter = DiscordAdapter(settings_of(server), server.connector, GatewayTiming(guilds=0.05, gap=0.1))
        running = asyncio.create_task(adapter.run(RecordingCore()))
        await server.until(lambda: login.hits)
        await adapter.close()
        await closes.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert opened_sessions
    assert all(session.closed for session in opened_sessions)
