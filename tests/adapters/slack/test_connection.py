"""Tests the Slack connection: what ends a socket, what ends the adapter, and what is cleaned up."""

import asyncio
import logging
from functools import partial
from urllib.request import getproxies

import aiohttp
import pytest

from adapters.slack.adapter import SlackAdapter
from adapters.slack.socket.session import SocketTiming
from adapters.slack.web_client import proxy_for, web_client
from bot.types.errors import FatalAdapterError, RetryLater, StorageError
from bot.types.messages import Accepted, Event, Outcome
from tests.support.builders.slack_adapter import QUICK, key_of, run_slack_adapter, settings_of
from tests.support.fakes.recording_core import RecordingCore
from tests.support.fakes.slack_server import APP_TOKEN, BOT_TOKEN, FakeSlack

pytest_plugins = ["tests.support.fixtures.http_sessions"]

APPS = "https://api.slack.com/apps"


def _opened(server: FakeSlack, number: int) -> bool:
    return server.sockets.opened == number


async def ended(server: FakeSlack, **settings: object) -> str:
    """The error with which an adapter ends before it is connected."""
    adapter = SlackAdapter(settings_of(server, **settings), QUICK)
    with pytest.raises(FatalAdapterError) as error:
        async with asyncio.timeout(10):
            await adapter.run(RecordingCore())
    return str(error.value)


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"slack_bot_token": None}, "SLACK_BOT_TOKEN"),
        ({"slack_app_token": None}, "SLACK_APP_TOKEN"),
        ({"slack_bot_token": "xoxb-wrong"}, "SLACK_BOT_TOKEN"),
        ({"slack_app_token": "xapp-wrong"}, "SLACK_APP_TOKEN"),
        ({"slack_bot_token": APP_TOKEN, "slack_app_token": BOT_TOKEN}, "SLACK_BOT_TOKEN"),
        ({"slack_app_token": BOT_TOKEN}, "SLACK_APP_TOKEN"),
    ],
)
async def test_a_wrong_token_ends_it_with_its_name_and_its_page(settings: dict[str, object], variable: str) -> None:
    async with FakeSlack() as server:
        said = await ended(server, **settings)
        assert variable in said
        assert None in settings.values() or APPS in said
        assert not server.sockets.opened


async def test_a_missing_scope_ends_it_with_its_name_and_its_page() -> None:
    async with FakeSlack() as server:
        server.scopes.discard("chat:write")
        assert f"the scope chat:write: add that under 'Bot Token Scopes' at {APPS}/A0" in await ended(server)
        server.scopes.discard("app_mentions:read")
        assert "the scopes app_mentions:read and chat:write" in await ended(server)
        server.scopes.update(("chat:write", "app_mentions:read"))
        server.app_scopes.clear()
        assert "connections:write" in await ended(server)


async def test_what_is_missing_of_the_scopes_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeSlack() as server:
        server.scopes.discard("files:read")
        async with run_slack_adapter(server):
            server.sockets.kill()
            await server.until(lambda: server.sockets.opened == 2)
        told = [line for line in caplog.messages if "scope" in line]
        assert len(told) == 1
        assert "Without the scope files:read I cannot read the text files" in told[0]


@pytest.mark.fault(12)
@pytest.mark.parametrize("app", [False, True])
async def test_a_token_that_is_revoked_later_ends_it(app: bool) -> None:
    async with run_slack_adapter() as setup:
        setup.server.refuse_token("token_revoked", app=app)
        setup.server.sockets.kill()
        with pytest.raises(FatalAdapterError, match="SLACK_APP_TOKEN was revoked" if app else "SLACK_BOT_TOKEN was"):
            async with asyncio.timeout(10):
                await setup.running


async def test_a_token_that_is_revoked_is_noticed_although_the_socket_lives() -> None:
    timing = SocketTiming(ping=2.0, watch=0.05, retry=0.05, token_check=0.1)
    async with run_slack_adapter(timing=timing) as setup:
        await setup.server.until(lambda: setup.server.log.count("auth.test") >= 3)
        setup.server.refuse_token("account_inactive")
        with pytest.raises(FatalAdapterError, match="SLACK_BOT_TOKEN"):
            async with asyncio.timeout(10):
                await setup.running


async def test_each_new_session_reads_back() -> None:
    async with run_slack_adapter() as setup:
        assert setup.core.caught_up == 1
        setup.server.sockets.kill()
        await setup.server.until(lambda: setup.core.caught_up == 2)
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.core.message()


@pytest.mark.fault(13)
async def test_an_old_socket_stays_until_the_new_one_is_there() -> None:
    async with run_slack_adapter() as setup:
        await setup.server.sockets.disconnect("refresh_requested")
        await setup.server.until(lambda: setup.server.sockets.opened == 2)
        assert setup.server.sockets.sockets[0].leaving, "still open while the other one says hello"
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.core.message()
        await setup.server.until(lambda: len(setup.server.sockets.sockets) == 1)
        assert not setup.server.sockets.sockets[0].leaving
        await setup.server.until(lambda: len(setup.server.acks) == 2)
        assert {ack.socket for ack in setup.server.acks} == {2}


@pytest.mark.parametrize("reason", ["warning", "too_many_websockets"])
async def test_a_socket_that_slack_ends_is_replaced(reason: str) -> None:
    async with run_slack_adapter() as setup:
        await setup.server.sockets.disconnect(reason, closes_after=0.1)
        await setup.server.until(lambda: setup.server.sockets.opened == 2 and len(setup.server.sockets.sockets) == 1)
        assert setup.server.sockets.online


async def test_socket_mode_that_is_switched_off_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with run_slack_adapter() as setup:
        await setup.server.sockets.disconnect("link_disabled", closes_after=0.1)
        with pytest.raises(FatalAdapterError, match="Socket Mode is switched off"):
            async with asyncio.timeout(10):
                await setup.running
        assert "Socket Mode was switched off" in caplog.text


@pytest.mark.parametrize("method", ["auth.test", "apps.connections.open"])
async def test_a_first_connection_that_fails_is_tried_again(method: str) -> None:
    async with FakeSlack() as server:
        server.faults.answer(method, status=503)
        async with run_slack_adapter(server) as setup:
            await setup.ana.says(setup.general, "hello", mention=True)
            await setup.core.message()


async def test_a_rate_limit_is_kept_to_while_connecting() -> None:
    async with FakeSlack() as server:
        server.limits.exhaust("apps.connections.open", 1.0)
        async with run_slack_adapter(server):
            opens = [call for call in server.calls if call.method == "apps.connections.open"]
            assert [call.status for call in opens] == [429, 200]
            assert opens[1].at - opens[0].at >= 1.0


@pytest.mark.fault(14)
async def test_a_dead_connection_is_left_and_what_was_said_is_heard() -> None:
    timing = SocketTiming(ping=2.0, idle=0.5, watch=0.05, hello=0.5, retry=0.05, max_retry=0.2)
    async with FakeSlack() as server:
        server.sockets.ping_s = 0.1
        server.sockets.scale = 0.3
        async with run_slack_adapter(server, timing=timing) as setup:
            server.freeze()
            await setup.ana.says(setup.general, "into the void", mention=True)
            await server.until(lambda: server.sockets.opened >= 2)
            server.freeze(False)
            assert (await setup.core.message()).text == "into the void"


async def test_a_line_on_which_only_the_pings_are_answered_is_kept() -> None:
    timing = SocketTiming(ping=0.3, idle=1.0, watch=0.05, retry=0.05)
    async with run_slack_adapter(timing=timing) as setup:
        await setup.server.until(lambda: setup.server.sockets.ponged >= 6)  # 1.8 s, longer than the idle timeout
        assert setup.server.sockets.opened == 1


async def test_a_dead_connection_is_left_well_before_forty_seconds() -> None:
    timing = SocketTiming()
    assert timing.ping < timing.idle, "one lost ping is no dead line"
    assert timing.idle + timing.watch + 2 * timing.retry + timing.hello < 40
    assert timing.ack < 3.0


async def test_what_cannot_be_stored_is_not_acknowledged_and_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    failures = 2

    def says(event: Event) -> Outcome:
        nonlocal failures
        if failures:
            failures -= 1
            raise StorageError("The disk is full.")
        return Accepted("request")

    caplog.set_level(logging.WARNING, "adapters")
    async with FakeSlack() as server:
        server.sockets.scale = 0.03
        server.subscribe_only("app_mention")
        async with run_slack_adapter(server, core=RecordingCore(says=says)) as setup:
            await setup.ana.says(setup.general, "hello", mention=True)
            await setup.core.message()
            await server.until(lambda: server.acks)
            assert server.acks[0].attempt == 2
            assert caplog.text.count("The disk is full.") == 2
            assert "Traceback" not in caplog.text


async def test_what_takes_too_long_is_not_acknowledged_late() -> None:
    core = RecordingCore()
    core.open.clear()
    async with FakeSlack() as server:
        server.sockets.scale = 0.1
        server.subscribe_only("app_mention")
        async with run_slack_adapter(server, core=core, timing=SocketTiming(watch=0.05, ack=0.25)) as setup:
            said = await setup.ana.says(setup.general, "hello", mention=True)
            await server.until(lambda: len(server.deliveries) == 2)
            core.open.set()
            await core.message()
            server.redeliver(said, "app_mention")
            await server.until(lambda: server.acks)
            assert not [ack for ack in server.acks if ack.late]
            assert len(core.events) == 1


async def test_a_bug_of_ours_costs_one_event_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def says(event: Event) -> Outcome:
        raise ZeroDivisionError

    async with run_slack_adapter(core=RecordingCore(says=says)) as setup:
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.server.until(lambda: "ZeroDivisionError" in caplog.text)
        setup.core.says = lambda event: Accepted("request")
        await setup.ben.says(setup.general, "and I?", mention=True)
        await setup.core.message()


async def test_an_event_without_a_listener_is_acknowledged() -> None:
    async with run_slack_adapter() as setup:
        said = await setup.ana.says(setup.general, "hello")
        setup.server.store.react(said, setup.ben.user, "eyes")
        await setup.ana.picks(said, "something_of_an_older_version")
        await setup.ana.commands(setup.general, "x", name="/other")
        await setup.server.until(lambda: len(setup.server.acks) == 4)


async def test_closing_ends_every_wait() -> None:
    async with FakeSlack() as server:
        server.faults.refuse("auth.test", "fatal_error", times=99)
        adapter = SlackAdapter(settings_of(server), SocketTiming(retry=60, max_retry=60))
        running = asyncio.create_task(adapter.run(RecordingCore()))
        await server.until(lambda: server.log.count("auth.test") == 1)
        with pytest.raises(RetryLater):
            await adapter.fetch_since(key_of(server.channel("general")), "1.0", 1)
        await adapter.close()
        async with asyncio.timeout(2):
            await running
    core = RecordingCore()
    core.open.clear()
    async with run_slack_adapter(core=core) as setup:
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.server.until(lambda: setup.server.log.count("users.info"))
        await setup.adapter.close()
        async with asyncio.timeout(8):
            await setup.running
        assert not setup.server.acks


async def test_nothing_is_left_behind() -> None:
    before = asyncio.all_tasks()
    async with FakeSlack() as server:
        async with run_slack_adapter(server) as setup:
            for opened in (2, 3):
                server.sockets.kill()
                await server.until(partial(_opened, server, opened))
            await setup.ana.says(setup.general, "hello", mention=True)
            await setup.core.message()
        assert not server.sockets.sockets
        left = {task.get_name() for task in asyncio.all_tasks() - before if "adapters/slack" in str(task.get_stack())}
        assert not left


def test_the_proxy_is_that_of_the_environment_with_its_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*getproxies(), *map(str.upper, getproxies()), "no", "NO"):
        for ending in ("_proxy", "_PROXY"):
            monkeypatch.delenv(f"{name}{ending}", raising=False)
    assert proxy_for("https://slack.com/api/") is None
    monkeypatch.setenv("https_proxy", "http://everywhere:3128")
    assert proxy_for("https://slack.com/api/") == "http://everywhere:3128"
    assert proxy_for("wss://wss-primary.slack.com/link") == "http://everywhere:3128"
    monkeypatch.setenv("no_proxy", "slack.com")
    assert proxy_for("wss://wss-primary.slack.com/link") is None


async def test_the_client_repeats_nothing_and_follows_the_given_address() -> None:
    async with FakeSlack() as server:
        client = web_client(settings_of(server))
        assert client.retry_handlers == []
        assert client.base_url == server.api_url


async def test_an_end_that_is_cut_short_leaves_no_session_open(
    monkeypatch: pytest.MonkeyPatch, opened_sessions: list[aiohttp.ClientSession]
) -> None:
    closing: asyncio.Queue[aiohttp.ClientWebSocketResponse] = asyncio.Queue()

    async def no_answer(socket: aiohttp.ClientWebSocketResponse, **_: object) -> None:
        closing.put_nowait(socket)
        await asyncio.sleep(3600)

    async with run_slack_adapter() as setup:
        with monkeypatch.context() as patched:
            patched.setattr(aiohttp.ClientWebSocketResponse, "close", no_answer)
            await setup.adapter.close()
            socket = await closing.get()
            setup.running.cancel()
            await asyncio.gather(setup.running, return_exceptions=True)
    assert opened_sessions
    assert all(session.closed for session in opened_sessions)
    await socket.close()  # its connection, which the one above did not reach
