"""Tests `inhouse doctor` for Discord: the real discord.py against the fake Discord."""

import asyncio
from pathlib import Path

import pytest

from adapters.discord.setup import checks
from bot.types.findings import Finding, State
from tests.support.builders.discord_adapter import run_discord_adapter, settings_of
from tests.support.builders.findings import about, complete, gathered, states
from tests.support.fakes.connect_proxy import ConnectProxy
from tests.support.fakes.discord import FakeDiscord

LOGIN = ("GET", "/users/@me")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


async def looked(server: FakeDiscord, **settings: object) -> list[Finding]:
    async with asyncio.timeout(15):
        return await gathered(checks.examine(settings_of(server, **settings), server.connector))


async def test_without_a_token_it_is_not_served() -> None:
    async with FakeDiscord() as server:
        (found,) = await looked(server, discord_bot_token=None)
    assert (found.state, "inhouse init" in found.fix) == (State.OK, True)
    assert not server.calls


async def test_a_healthy_bot_has_nothing_wrong_and_starts_no_session() -> None:
    async with run_discord_adapter() as setup:
        sessions, calls = len(setup.server.gateway.identifies), len(setup.server.calls)
        found = await looked(setup.server)
        assert len(setup.server.gateway.identifies) == sessions
        assert {call.method for call in setup.server.calls[calls:]} == {"GET"}, "nothing is changed"
    assert states(found) == dict.fromkeys(
        ("Discord token", "Discord intents", "Discord servers", "Discord sessions", "slash commands"), State.OK
    )


async def test_a_refused_token_is_wrong_and_its_shape_is_looked_at() -> None:
    async with FakeDiscord() as server:
        (found,) = await looked(server, discord_bot_token="client-secret")
        assert (found.check, found.state) == ("Discord token", State.WRONG)
        assert "three parts with dots" in found.found
        assert "Reset Token" in found.fix
        shaped = f"{'M' * 26}.GhIjKl.{'x' * 38}"
        (found,) = await looked(server, discord_bot_token=shaped)
        assert "three parts" not in found.found
        assert shaped not in f"{found}"


async def test_the_intent_that_is_off_names_the_page_of_the_application() -> None:
    async with FakeDiscord(message_content=False) as server:
        found = about(await looked(server), "Discord intents")
        assert found.state is State.WARNING
        assert f"applications/{server.application_id}/bot" in found.fix


@pytest.mark.parametrize(
    ("elsewhere", "state", "words"),
    [
        (-1, State.WARNING, "in no server"),
        (0, State.OK, "in 1 server"),
        (2500, State.OK, "2,501 servers, so Discord divides them into shards"),
    ],
)
async def test_the_servers_are_counted(elsewhere: int, state: State, words: str) -> None:
    async with FakeDiscord() as server:
        server.also_in(elsewhere)
        found = about(await looked(server), "Discord servers")
    assert (found.state, words in found.found) == (state, True)
    assert complete([found])


@pytest.mark.parametrize(("left", "state"), [(900, State.OK), (60, State.WARNING), (20, State.WRONG)])
async def test_the_sessions_that_are_left_are_reported(left: int, state: State) -> None:
    async with FakeDiscord() as server:
        server.gateway.session_start.leave(left, 3600.0)
        found = about(await looked(server), "Discord sessions")
    assert (found.state, f"{left} of 1,000" in found.found) == (state, True)
    assert complete([found])


async def test_slash_commands_that_are_not_registered_are_named() -> None:
    async with FakeDiscord() as server:
        assert about(await looked(server), "slash commands").found == "none are registered yet"
    async with run_discord_adapter() as setup:
        setup.server.remove_command("model")
        found = about(await looked(setup.server), "slash commands")
    assert (found.state, found.found) == (State.WARNING, "not registered: model")


async def test_a_discord_that_fails_or_is_out_of_reach_is_reported() -> None:
    async with FakeDiscord() as server:
        server.faults.answer(*LOGIN, status=403)
        (found,) = await looked(server)
        assert (found.state, found.found) == (State.WARNING, "it answers with status 403")
        server.faults.answer("GET", "/applications/{application_id}/commands", status=403)
        found = (await looked(server))[-1]
        assert (found.state, "not everything could be asked" in found.found) == (State.WARNING, True)
        server.faults.drop(*LOGIN, applied=False, times=9)
        (found,) = await looked(server)
        assert (found.state, "cannot be reached from here" in found.found) == (State.WRONG, True)


async def test_a_certificate_that_is_not_trusted_and_a_proxy_are_reported(tmp_path: Path) -> None:
    async with FakeDiscord() as server, ConnectProxy(server.port) as proxy:
        settings = settings_of(server, discord_proxy=proxy.url)
        (found,) = await gathered(checks.examine(settings))  # without the fake's certificate authority
        assert (found.state, "SSL_CERT_FILE" in found.fix) == (State.WRONG, True)
        assert proxy.hosts == ["discord.com"]
    (found,) = await gathered(checks.examine(settings))
    assert (found.state, "through the proxy" in found.found) == (State.WRONG, True)
    assert checks.clock(settings)[1] == proxy.url
