"""Keeps the bot connected to Discord: one client after the other, within the daily limit of sessions.

Before each client it asks Discord for the intents and the sessions that are left. Only an error that needs a person
ends the adapter.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.request import getproxies, proxy_bypass

import aiohttp
import discord

from adapters.discord.error_mapping import fatal_error
from adapters.discord.gateway.client import ConnectionOptions, GatewayClient, SessionLimitReached, SessionLimits
from adapters.discord.gateway.reconnect_backoff import RESERVED_SESSIONS, ReconnectBackoff
from adapters.discord.inbound.intake import Intake
from adapters.discord.outbound.posting import Posting
from adapters.discord.request_limits import REQUEST_TIMEOUT_S, GlobalRateLimit, request_timeout, timeout_trace
from adapters.retries import sleep_unless
from bot.config.settings import Settings
from bot.platforms.adapter import Core
from bot.types.errors import FatalAdapterError, NotSent

log = logging.getLogger(__name__)

ConnectorFactory = Callable[[], aiohttp.BaseConnector]


@dataclass(frozen=True, slots=True)
class GatewayTiming:
    """Seconds. `heartbeat`: without a frame for so long the connection is dead (Discord sends one every 41.25 s; with
    the 30 s that a close may take, this stays below two heartbeats). `guilds`: how long to wait for one more server
    before a session counts as complete. `gap`: the least time between two sessions. `answer`: timeout of a request.
    """

    heartbeat: float = 50.0
    guilds: float = 1.0
    gap: float = 5.0
    answer: float = REQUEST_TIMEOUT_S


def proxy_for(settings: Settings) -> str | None:
    """The proxy to Discord: the setting, else the environment's."""
    if settings.discord_proxy or proxy_bypass("discord.com"):
        return settings.discord_proxy
    return getproxies().get("https")


class Gateway:
    """The connection of one bot. `posting` writes through it."""

    def __init__(self, settings: Settings, connect: ConnectorFactory | None, timing: GatewayTiming) -> None:
        self._settings, self._connect, self._timing = settings, connect, timing
        self._backoff = ReconnectBackoff(timing.gap)
        self._client: GatewayClient | None = None
        self._application_id: int | None = None
        self.closing = asyncio.Event()
        self.rate_limited = 0
        """How often Discord answered 429."""
        self._trace = GlobalRateLimit().add_to(timeout_trace(timing.answer, self._count_rate_limit))
        self.posting = Posting(settings, self.client)
        discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False  # no voice is needed

    @property
    def connected(self) -> bool:
        """Whether there is a session at this moment."""
        return self._client is not None and not self._client.is_closed() and self._client.is_ready()

    def client(self) -> GatewayClient:
        """The connected client. Raises NotSent if there is none."""
        if self._client is None or self._client.is_closed():
            raise NotSent(1.0, "Discord is not connected")
        return self._client

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on; the connection stays."""
        self._settings = settings
        self.posting.reload(settings)
        if self._client is not None:
            self._client.context.reload(settings)

    async def run(self, core: Core) -> None:
        """Stay connected until close(). Raises FatalAdapterError."""
        intake = Intake(core, self.posting, self.closing)
        try:
            await self._reconnect_forever(core, intake)
        finally:
            await intake.end()

    async def _reconnect_forever(self, core: Core, intake: Intake) -> None:
        while not self.closing.is_set():
            client_task = asyncio.create_task(self._run_client(core, intake), name="discord")
            closing = asyncio.create_task(self.closing.wait())
            try:
                await asyncio.wait([client_task, closing], return_when=asyncio.FIRST_COMPLETED)
            finally:
                closing.cancel()
                client_task.cancel()
                outcome = (await asyncio.gather(client_task, return_exceptions=True))[0]
            if self.closing.is_set():
                return
            await sleep_unless(self.closing, self._reconnect_delay(outcome))

    async def close(self) -> None:
        """End the connection; run() returns soon after."""
        self.closing.set()

    def _reconnect_delay(self, outcome: BaseException | None) -> float:
        """Seconds until the next client, from the outcome of the last one. Raises FatalAdapterError."""
        if isinstance(outcome, FatalAdapterError):
            raise outcome
        if outcome is not None and (refusal := fatal_error(outcome, self._application_id)):
            raise refusal from outcome
        if isinstance(outcome, SessionLimitReached):
            wait = self._backoff.seconds_to_session()
        else:
            wait = max(self._backoff.next_retry(), self._backoff.seconds_to_session())
        log.warning("Disconnected from Discord (%s); reconnecting in %.0f s.", _error_name(outcome), wait)
        return wait

    async def _run_client(self, core: Core, intake: Intake) -> None:
        """Run one client until its connection ends."""
        token = self._token()
        limits = await self._wait_for_sessions(token)
        client = GatewayClient(self._settings, core, intake, self._backoff, limits, self._options())
        presence = asyncio.create_task(client.keep_presence())
        try:
            async with request_timeout():
                await client.login(token)
            client.context.reload(self._settings)  # a reload may have come during the login
            self._client = client
            await client.connect()
        finally:
            self._client = None
            presence.cancel()
            try:
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(5.0):
                        await client.close()
            finally:  # close() awaits the gateway's answer first; without one the HTTP session stays open
                with contextlib.suppress(Exception):
                    await client.http.close()

    async def _wait_for_sessions(self, token: str) -> SessionLimits:
        """What Discord allows, once enough sessions are left."""
        while True:
            limits = await self._fetch_limits(token)
            if limits.remaining > RESERVED_SESSIONS:
                return limits
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + limits.resets_in_s))
            log.warning(
                "Only %d more sessions are left before %s. Waiting until then, since Discord resets the token of a bot "
                "that uses up all of them.",
                limits.remaining,
                until,
            )
            await sleep_unless(self.closing, limits.resets_in_s + 1.0)

    async def _fetch_limits(self, token: str) -> SessionLimits:
        """Ask Discord for the intents and the sessions left, without starting a session."""
        options = self._options()
        probe = discord.AutoShardedClient(  # the only client with fetch_session_start_limits
            intents=discord.Intents(guilds=True),
            connector=options.connector,
            proxy=options.proxy,
            http_trace=options.trace,
        )
        try:
            async with probe, request_timeout():
                await probe.login(token)
                session_limits = await probe.fetch_session_start_limits()
                self._application_id = probe.application_id
                flags = probe.application_flags
        finally:  # the end of the service cancels twice; the second time may end close() before the HTTP session's
            with contextlib.suppress(Exception):
                await probe.http.close()
        reads_all = flags.gateway_message_content or flags.gateway_message_content_limited
        return SessionLimits(reads_all, session_limits.remaining, session_limits.reset_after / 1000)

    def _options(self) -> ConnectionOptions:
        connector = self._connect() if self._connect else None
        timing = self._timing
        proxy = proxy_for(self._settings)
        return ConnectionOptions(connector, proxy, timing.heartbeat, timing.guilds, self._trace)

    def _count_rate_limit(self) -> None:
        self.rate_limited += 1

    def _token(self) -> str:
        if self._settings.discord_bot_token is None:
            raise FatalAdapterError("DISCORD_BOT_TOKEN is not set, so Inhouse cannot connect to Discord.")
        return self._settings.discord_bot_token.get_secret_value()


def _error_name(outcome: BaseException | None) -> str:
    """A short name for an error, without text that it may quote."""
    if isinstance(outcome, discord.ConnectionClosed):
        return f"closed with {outcome.code}"
    if isinstance(outcome, discord.HTTPException):
        return f"status {outcome.status}"
    return type(outcome).__name__ if outcome else "closed"
