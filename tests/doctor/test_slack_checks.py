"""Tests `inhouse doctor` for Slack: the real slack_sdk against the fake Slack."""

import asyncio
from typing import Any

import pytest

from adapters.slack.bot_identity import SCOPES
from adapters.slack.error_mapping import APPS
from adapters.slack.setup import checks
from bot.types.findings import Finding, State
from tests.support.builders.findings import about, complete, gathered, states
from tests.support.builders.slack_adapter import run_slack_adapter, settings_of
from tests.support.fakes.slack_server import APP_TOKEN, BOT_TOKEN, FakeSlack

HEALTHY = dict.fromkeys(("Slack bot token", "Slack scopes", "Slack app", "Slack events", "Slack app token"), State.OK)


async def looked(server: FakeSlack, *, hosts: int | None = None, **settings: Any) -> list[Finding]:
    async with asyncio.timeout(15):
        running = None if hosts is None else lambda: hosts
        found = await gathered(checks.examine(settings_of(server, **settings), running))
    assert complete(found) or any(finding.check == "Slack app" for finding in found)
    assert all(token not in f"{found}" for token in (BOT_TOKEN, APP_TOKEN))
    return found


async def test_a_healthy_app_has_nothing_wrong_and_opens_no_socket() -> None:
    async with FakeSlack() as server:
        found = await looked(server)
        assert states(found) == HEALTHY
        assert not server.sockets.opened
        assert "inhouse slack-manifest" in about(found, "Slack events").fix
        assert not about(found, "Slack events").found.startswith("all"), "it is not claimed to be known"


@pytest.mark.parametrize(("hosts", "state"), [(0, State.WARNING), (1, State.OK), (2, State.OK)])
async def test_sockets_that_no_host_of_ours_has_are_of_another_program(hosts: int, state: State) -> None:
    async with FakeSlack() as server, run_slack_adapter(server):
        await server.until(lambda: server.sockets.online)
        found = await looked(server, hosts=hosts)
        assert states(found) == HEALTHY | {"Slack sockets": state}
        assert ("stop it" in about(found, "Slack sockets").fix) == (state is State.WARNING)


async def test_without_tokens_it_is_not_served() -> None:
    async with FakeSlack() as server:
        (found,) = await looked(server, slack_bot_token=None, slack_app_token=None)
        assert (found.state, "inhouse init" in found.fix) == (State.OK, True)
        assert server.calls == []


@pytest.mark.parametrize(
    ("settings", "check", "words"),
    [
        ({"slack_bot_token": None}, "Slack bot token", "SLACK_BOT_TOKEN is not set"),
        ({"slack_app_token": None}, "Slack app token", "SLACK_APP_TOKEN is not set"),
        ({"slack_bot_token": "xoxb-wrong"}, "Slack bot token", "Slack does not know SLACK_BOT_TOKEN"),
        ({"slack_app_token": "xapp-wrong"}, "Slack app token", "Slack does not know SLACK_APP_TOKEN"),
        ({"slack_bot_token": APP_TOKEN}, "Slack bot token", "SLACK_BOT_TOKEN is not the token of a bot"),
        ({"slack_app_token": BOT_TOKEN}, "Slack app token", "SLACK_APP_TOKEN is a token of the wrong kind"),
    ],
)
async def test_each_token_is_reported_by_its_name(settings: dict[str, Any], check: str, words: str) -> None:
    async with FakeSlack() as server:
        found = about(await looked(server, **settings), check)
    assert (found.state, words in found.found, bool(found.fix)) == (State.WRONG, True, True), found


@pytest.mark.parametrize("error", ["token_revoked", "account_inactive", "token_expired"])
async def test_a_token_that_is_over_is_wrong_and_the_other_is_still_looked_at(error: str) -> None:
    async with FakeSlack() as server:
        server.refuse_token(error)
        found = await looked(server)
        assert states(found) == {"Slack bot token": State.WRONG, "Slack app token": State.OK}
        server.refuse_token("")
        server.refuse_token(error, app=True)
        assert states(await looked(server)) == HEALTHY | {"Slack app token": State.WRONG}


async def test_each_missing_scope_is_reported_with_what_it_is_for() -> None:
    async with FakeSlack() as server:
        server.scopes.discard("files:read")
        found = about(await looked(server), "Slack scopes")
        assert (found.state, found.found) == (State.WARNING, f"without files:read it cannot {SCOPES['files:read']}")
        assert f"{APPS}/A0" in found.fix
        server.scopes.discard("chat:write")
        found = about(await looked(server), "Slack bot token")
        assert (found.state, "the scope chat:write" in found.found) == (State.WRONG, True)
        server.app_scopes.clear()
        found = about(await looked(server), "Slack app token")
        assert (found.state, "connections:write" in found.found) == (State.WRONG, True)


async def test_socket_mode_that_is_off_is_wrong() -> None:
    async with FakeSlack() as server:
        server.faults.refuse("apps.connections.open", "socket_mode_not_enabled")
        found = about(await looked(server), "Slack app token")
        assert (found.state, "Socket Mode" in found.fix) == (State.WRONG, True)


async def test_tokens_of_two_apps_are_wrong() -> None:
    async with FakeSlack() as server:
        other = server.app_token.replace("A0INHOUSE01", "A0ANOTHER01")
        server.replace_app_token(other)
        found = about(await looked(server, slack_app_token=other), "Slack app")
        assert (found.state, "A0ANOTHER01" in found.found, f"{APPS}/A0INHOUSE01" in found.fix) == (
            State.WRONG,
            True,
            True,
        )
        server.scopes.discard("users:read")
        found = about(await looked(server, slack_app_token=other), "Slack app")
        assert (found.state, "users:read is missing" in found.found) == (State.WARNING, True)


async def test_a_slack_that_fails_or_is_out_of_reach_is_reported() -> None:
    async with FakeSlack() as server:
        server.faults.refuse("auth.test", "internal_error")
        found = about(await looked(server), "Slack bot token")
        assert (found.state, found.found) == (State.WARNING, "Slack answers with internal_error")
        url = server.api_url
    found_ = await looked(server, slack_api_url=url)
    assert states(found_) == {"Slack bot token": State.WRONG, "Slack app token": State.WRONG}
    assert checks.clock(settings_of(server, slack_api_url=url)) == (f"{url}api.test", None)
