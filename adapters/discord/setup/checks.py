"""The Discord checks of `inhouse doctor`: token, intents, servers, sessions and slash commands.

They start no session and change nothing.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import discord
from discord import app_commands

from adapters.discord.error_mapping import fatal_error, portal_page
from adapters.discord.gateway.gateway import ConnectorFactory, proxy_for
from adapters.discord.gateway.reconnect_backoff import RESERVED_SESSIONS
from adapters.discord.interactions.slash_commands import ANSWER, FORGET
from adapters.discord.request_limits import request_timeout, timeout_trace
from bot.config.settings import Settings
from bot.types.commands import COMMANDS
from bot.types.display_names import one_line
from bot.types.findings import Finding, State, from_error, ok, reason, warning, wrong

TIMEOUT_S = 10.0
LOW_SESSIONS = 100
MAX_SERVERS = 2500
"""Servers above which Discord requires shards."""
TOKEN_SHAPE = re.compile(r"[\w-]{18,}\.[\w-]{5,}\.[\w-]{20,}")
FAILURES = (discord.DiscordException, aiohttp.ClientError, OSError, TimeoutError)
LATER = "Try again in a minute; discordstatus.com lists outages"
API = f"{discord.http.Route.BASE}/gateway"


def clock(settings: Settings) -> tuple[str, str | None]:
    """An address that answers without a token, with the time in its headers, and the proxy to it."""
    return API, proxy_for(settings)


async def examine(settings: Settings, connect: ConnectorFactory | None = None) -> AsyncIterator[Finding]:
    """Check everything, if there is a token."""
    if settings.discord_bot_token is None:
        fix = "`inhouse init` sets it up."
        yield ok("Discord", "not served: there is no DISCORD_BOT_TOKEN", fix)
        return
    token = settings.discord_bot_token.get_secret_value()
    proxy = proxy_for(settings)
    client = discord.AutoShardedClient(  # the only client with fetch_session_start_limits
        intents=discord.Intents(guilds=True),
        connector=connect() if connect else None,
        proxy=proxy,
        http_trace=timeout_trace(TIMEOUT_S, lambda: None),
    )
    async with client:
        try:
            async with request_timeout():
                await client.login(token)
                application = await client.application_info()
        except FAILURES as error:
            yield _login_failure(error, token, proxy)
            return
        yield ok("Discord token", f"it is the token of {one_line(str(client.user))}")
        yield _message_content(application)
        yield _servers(application)
        try:
            async with request_timeout():
                yield _sessions(await client.fetch_session_start_limits())
                commands = await app_commands.CommandTree(client).fetch_commands()
        except FAILURES as error:
            yield warning("Discord", f"not everything could be asked ({reason(error)})", f"{LATER}.")
            return
        yield _commands(commands)


def _login_failure(error: Exception, token: str, proxy: str | None) -> Finding:
    """The finding for a failed login."""
    refusal = fatal_error(error)
    if refusal is not None:
        refused = from_error("Discord token", State.WRONG, str(refusal))
        if TOKEN_SHAPE.fullmatch(token):
            return refused
        shape = ", and it does not look like one: a token is three parts with dots between them"
        return replace(refused, found=refused.found + shape)
    if isinstance(error, discord.HTTPException):
        return warning("Discord", f"it answers with status {error.status}", f"{LATER}.")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        found = f"the proxy to Discord refuses ({error.status})"
        return wrong(
            "Discord", found, "See what INHOUSE_DISCORD_PROXY or HTTPS_PROXY names, and allow discord.com there."
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        fix = "If a proxy inspects TLS, set SSL_CERT_FILE to its certificates."
        return wrong("Discord", "its certificate is not trusted here", fix)
    way = "through the proxy" if proxy else "from here"
    fix = "Check the network, name resolution and firewall; INHOUSE_DISCORD_PROXY can name a proxy."
    return wrong("Discord", f"it cannot be reached {way} ({reason(error)})", fix)


def _message_content(application: discord.AppInfo) -> Finding:
    flags, page = application.flags, portal_page(application.id)
    if flags.gateway_message_content or flags.gateway_message_content_limited:
        return ok("Discord intents", "'Message Content Intent' is on, so threads are followed")
    found = "'Message Content Intent' is off, so in threads the bot has to be mentioned each time"
    return warning("Discord intents", found, f"Switch it on at {page}, under 'Privileged Gateway Intents'.")


def _servers(application: discord.AppInfo) -> Finding:
    count = application.approximate_guild_count
    found = f"the bot is in {count:,} server{'' if count == 1 else 's'}"
    if count > MAX_SERVERS:
        return ok("Discord servers", f"{found}, so Discord divides them into shards, each with a connection")
    if not count:
        return warning("Discord servers", "the bot is in no server", "`inhouse discord-invite` prints the link.")
    return ok("Discord servers", found)


def _sessions(limits: discord.SessionStartLimits) -> Finding:
    hours = limits.reset_after / 3_600_000
    found = f"{limits.remaining:,} of {limits.total:,} are left for the next {hours:.0f} hours"
    if limits.remaining <= RESERVED_SESSIONS:
        fix = "Wait: Inhouse starts no more until then, since Discord resets the token of a bot that uses up all."
        return wrong("Discord sessions", found, fix)
    if limits.remaining < LOW_SESSIONS:
        fix = "Something restarts this bot again and again: check its log, and whether another program uses its token."
        return warning("Discord sessions", found, fix)
    return ok("Discord sessions", found)


def _commands(registered: list[app_commands.AppCommand]) -> Finding:
    ours = {command.name for command in COMMANDS} | {ANSWER, FORGET}
    there = {command.name for command in registered}
    if ours <= there:
        return ok("slash commands", f"all {len(ours)} are registered")
    fix = "`inhouse run` registers them when it connects."
    if not there:
        return warning("slash commands", "none are registered yet", fix)
    missing = ", ".join(sorted(ours - there))
    return warning("slash commands", f"not registered: {missing}", fix)
