"""Tests that no token reaches a log, not even in a real library's exception, at any level and in any format."""

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import discord
import pytest
import pytest_asyncio
from aiohttp import web
from huggingface_hub import HfApi
from slack_sdk.web.async_client import AsyncWebClient

from bot.observability.logs import REDACTED
from tests.support.builders.captured_logs import logs_at

DISCORD = "MTA1NjQ3ODk4NzY1NDMyMTA5OA.GxYzAb." + "abcdefghijklmnopqrstuvwxyz0123456789AB"
BOT, APP = "xoxb-1234567890-1234567890123-AbCdEfGhIjKlMnOp", "xapp-1-A0123456789-1234567890123-abcdef0123456789"
HUB, PAGE = "hf_" + "AbCdEfGh12345678" * 2, "a-password-that-somebody-made-up"
PIECE = 12
"""Length of the longest piece of a token that a log may not contain."""

Fails = Callable[[str], Awaitable[object]]


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[str]:
    """A server that rejects everything and quotes the token, as some proxies do."""

    async def refuse(request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").split(" ")[-1]
        said = {"ok": False, "error": f"bad {token}", "message": f"the token {token} is bad", "code": 0}
        body = json.dumps(said).encode()
        headers = {"Content-Type": "application/json", "X-Error-Message": f"{token} is bad"}
        return web.Response(status=200 if "slack" in request.path else 400, body=body, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def discord_refuses(where: str) -> None:
    discord.http.Route.BASE = where  # the fixture below restores it
    async with discord.Client(intents=discord.Intents.none()) as client:
        await client.login(DISCORD)


async def slack_refuses_the_bot(where: str) -> None:
    await AsyncWebClient(BOT, base_url=f"{where}/slack/").auth_test()


async def slack_refuses_the_app(where: str) -> None:
    await AsyncWebClient(base_url=f"{where}/slack/").apps_connections_open(app_token=APP)


async def the_hub_refuses(where: str) -> None:
    await asyncio.to_thread(HfApi(endpoint=where).model_info, "acme/model", token=HUB)


async def aiohttp_is_refused(where: str) -> None:
    headers = {"Authorization": f"Bearer {PAGE}"}
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as session:
        await session.get(f"{where}/{PAGE}?token={PAGE}")


CASES = [
    (discord_refuses, DISCORD),
    (slack_refuses_the_bot, BOT),
    (slack_refuses_the_app, APP),
    (the_hub_refuses, HUB),
    (aiohttp_is_refused, PAGE),
]


@pytest.mark.fault(43)
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
@pytest.mark.parametrize(("fails", "token"), CASES, ids=[fails.__name__ for fails, _ in CASES])
async def test_a_token_inside_an_exception_of_a_library_is_redacted(
    echo: str, fails: Fails, token: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discord.http.Route, "BASE", discord.http.Route.BASE)
    for form in ("text", "json"):
        with logs_at(level, form, [PAGE]) as logged:
            try:
                await fails(echo)
            except Exception as error:
                raw = "".join(traceback.format_exception(error)) + repr(error)
                logging.getLogger("bot.generation.worker").exception("it failed: %s", error, extra={"why": repr(error)})
                logging.getLogger("some.library").error("it failed: %r %r", error, error.__cause__)
            assert token in raw, "or this proves nothing"
            assert "it failed" in logged.getvalue()
            assert REDACTED in logged.getvalue()
            for at in range(len(token) - PIECE + 1):
                assert token[at : at + PIECE] not in logged.getvalue()


@pytest.mark.fault(43)
@pytest.mark.parametrize(
    "secret",
    [
        "https://discord.com/api/v10/webhooks/1056478987654321098/{}/messages/@original",
        "https://discord.com/api/v10/interactions/1056478987654321098/{}/callback",
        "https://hooks.slack.com/commands/T0123/456/{}",
        "wss://wss-primary.slack.com/link/?ticket={}&app_id=abc",
        "http://somebody:{}@proxy.example:3128",
    ],
)
def test_addresses_that_work_like_passwords_are_redacted(secret: str) -> None:
    password = "aW50ZXJhY3Rpb246MTA1NjQ3ODk4NzY1NDMyMTA5OA"
    with logs_at("info") as logged:
        logging.getLogger("discord.http").warning("We are being rate limited: %s", secret.format(password))
        logging.getLogger("bot").info("see https://example.org/a/b?page=1 at 127.0.0.1:8321")
    assert password not in logged.getvalue()
    assert "see https://example.org/a/b?page=1 at 127.0.0.1:8321" in logged.getvalue()
