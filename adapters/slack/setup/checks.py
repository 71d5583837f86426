"""The Slack checks of `inhouse doctor`: both tokens, whether they belong to one app, scopes, others' sockets.

They change nothing. Slack does not tell which events an app is subscribed to, so these are only listed. Only the first
frame on a new socket tells how many an app has, so one is opened and closed at once; what Slack should send to it
meanwhile is not acknowledged, and comes again on another one.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.bot_identity import SCOPES, BotIdentity, app_id_of, check_token, oauth_page
from adapters.slack.error_mapping import APPS, code_of, fatal_error, mapped_errors
from adapters.slack.setup.manifest import EVENTS
from adapters.slack.web_client import proxy_for, web_client
from bot.config.settings import Settings
from bot.types.display_names import one_line
from bot.types.errors import AdapterError, FatalAdapterError
from bot.types.findings import Finding, State, from_error, ok, warning, wrong

TIMEOUT_S = 10.0
INIT = "`inhouse init` asks for it."
LATER = "Check the network and HTTPS_PROXY; slack-status.com lists outages."


def clock(settings: Settings) -> tuple[str, str | None]:
    """An address that answers without a token, with the time in its headers, and the proxy to it."""
    url = f"{web_client(settings).base_url}api.test"
    return url, proxy_for(url)


async def examine(settings: Settings, hosts: Callable[[], int] | None = None) -> AsyncIterator[Finding]:
    """Check everything for which there is a token.

    hosts: counts those of Inhouse that run now, and may block; None to look for no other program.
    """
    if settings.slack_bot_token is None and settings.slack_app_token is None:
        fix = "`inhouse init` sets it up."
        yield ok("Slack", "not served: there is no SLACK_BOT_TOKEN and no SLACK_APP_TOKEN", fix)
        return
    web = web_client(settings, TIMEOUT_S)
    if settings.slack_bot_token is None:
        yield wrong("Slack bot token", "SLACK_BOT_TOKEN is not set, and Slack needs both", INIT)
    else:
        async for finding in _bot(settings, web):
            yield finding
    if settings.slack_app_token is None:
        yield wrong("Slack app token", "SLACK_APP_TOKEN is not set, and Slack needs both", INIT)
    else:
        running = await asyncio.to_thread(hosts) if hosts else None
        async for finding in _socket_mode(settings.slack_app_token.get_secret_value(), web, running):
            yield finding


async def _bot(settings: Settings, web: AsyncWebClient) -> AsyncIterator[Finding]:
    """The bot token and its scopes."""
    try:
        async with mapped_errors():
            answer = await web.auth_test()
        identity = check_token(answer, settings)
    except AdapterError as error:
        yield _refusal("Slack bot token", error)
        return
    yield ok("Slack bot token", f"{one_line(str(answer.get('user')))} in the workspace {one_line(identity.team)}")
    missing = [scope for scope in SCOPES if scope not in identity.scopes]
    for scope in missing:
        found = f"without {scope} it cannot {SCOPES[scope]}"
        fix = f"Add it under 'Bot Token Scopes' at {oauth_page(identity.app_id)}, and install the app again."
        yield warning("Slack scopes", found, fix)
    if not missing:
        yield ok("Slack scopes", f"all {len(SCOPES)} are granted")
    if settings.slack_app_token is not None:
        yield await _same_app(settings, web, identity)
    found = f"Slack does not tell which are subscribed; Inhouse needs {', '.join(EVENTS)}"
    fix = "If messages are missed, compare the page 'Event Subscriptions' with `inhouse slack-manifest`."
    yield ok("Slack events", found, fix)


async def _same_app(settings: Settings, web: AsyncWebClient, identity: BotIdentity) -> Finding:
    """Whether both tokens are of one app; otherwise one app gets the events and another one answers."""
    theirs = app_id_of(settings)
    try:
        async with mapped_errors():
            answer = await web.bots_info(bot=identity.bot_id)
        ours = str(dict(answer.get("bot") or {}).get("app_id") or "")
    except AdapterError as error:
        lacks = error.__cause__ is not None and code_of(error.__cause__) == "missing_scope"
        why = "the scope users:read is missing" if lacks else str(error).rstrip(".")
        return warning("Slack app", f"whether both tokens are of one app is not known: {why}")
    if ours and theirs and ours != theirs:
        found = f"the bot token is of the app {ours}, and the app token of {theirs}"
        return wrong("Slack app", found, f"Take both from the same app at {APPS}/{ours}.")
    return ok("Slack app", f"both tokens are of {ours}" if ours and theirs else "both tokens seem to be of one app")


async def _socket_mode(token: str, web: AsyncWebClient, hosts: int | None) -> AsyncIterator[Finding]:
    """The app token, and the sockets of the app that are not ours."""
    others = 0
    try:
        async with mapped_errors():
            answer = await web.apps_connections_open(app_token=token)
            if hosts is not None:
                others = await _open_sockets(str(answer["url"])) - 1
    except AdapterError as error:
        yield _refusal("Slack app token", error)
        return
    yield ok("Slack app token", "it is accepted, and Socket Mode is on")
    if hosts is None:
        return
    if others > 2 * hosts:  # a host has two while it replaces one
        found = f"sockets of this app: {others}, and running hosts of Inhouse: {hosts}"
        fix = (
            "Another program with this SLACK_APP_TOKEN takes a part of the messages: stop it, or make a new token. "
            "Right after a crash, it may be the old socket."
        )
        yield warning("Slack sockets", found, fix)
    else:
        yield ok("Slack sockets", f"of this app: {others}, and running hosts of Inhouse: {hosts}")


async def _open_sockets(url: str) -> int:
    """How many sockets the app has, with the one that this opens. Raises aiohttp's errors, TimeoutError, ValueError."""
    async with (
        asyncio.timeout(TIMEOUT_S),
        aiohttp.ClientSession() as session,
        session.ws_connect(url, proxy=proxy_for(url)) as socket,
    ):
        hello = json.loads(await socket.receive_str())
    return int(hello.get("num_connections") or 1)


def _refusal(name: str, error: AdapterError) -> Finding:
    """The finding for an error."""
    cause = error.__cause__
    final = error if isinstance(error, FatalAdapterError) else fatal_error(cause) if cause is not None else None
    if final is not None:
        return from_error(name, State.WRONG, str(final))
    if isinstance(cause, SlackApiError):
        code = code_of(cause)
        answered = code or f"status {getattr(cause.response, 'status_code', '?')}"
        return warning(name, f"Slack answers with {answered}", "Try again in a minute; slack-status.com lists outages.")
    return wrong(name, str(error).partition(";")[0], LATER)
