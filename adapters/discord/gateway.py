"""Staying connected to Discord, for as long as it lets us.

In: settings and what to do with events. Out: a client that is connected, again and again: each life of it begins with a
look at what the portal allows and how many sessions are left, and ends with whatever ended it. It promises that only a
refusal for good ends the adapter, and that no chain of failures spends the sessions of a day.
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

from adapters.discord.client import Allowed, HouseClient, Line, TooSoon
from adapters.discord.failures import fatal
from adapters.discord.intake import Intake
from adapters.discord.pace import KEPT, Pace
from adapters.discord.patience import PATIENCE_S, hurried, trace
from adapters.discord.posting import Posting
from adapters.discord.throttle import Throttle
from bot.adapter import Core
from bot.config import Settings
from bot.errors import FatalAdapterError, RetryLater

log = logging.getLogger(__name__)

Connect = Callable[[], aiohttp.BaseConnector]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `heartbeat`: without a frame for so long the line is dead (Discord sends one every 41.25 s); with the 30
    that a dead line is given to close it stays below two beats. `guilds`: how long to wait for one more server before a
    session counts as complete. `gap`: the least time between two sessions. `answer`: how long a request may wait."""

    heartbeat: float = 50.0
    guilds: float = 1.0
    gap: float = 5.0
    answer: float = PATIENCE_S


def proxy_for(settings: Settings) -> str | None:
    """The proxy to Discord: the setting, else the environment's."""
    if settings.discord_proxy or proxy_bypass("discord.com"):
        return settings.discord_proxy
    return getproxies().get("https")


class Gateway:
    """One bot's connection. `posting` is what carries replies through it."""

    def __init__(self, settings: Settings, connect: Connect | None, timing: Timing) -> None:
        self._settings, self._connect, self._timing = settings, connect, timing
        self._pace = Pace(timing.gap)
        self._client: HouseClient | None = None
        self._application_id: int | None = None
        self.closing = asyncio.Event()
        self.rate_limited = 0
        """How often Discord answered 429."""
        self._trace = Throttle().added_to(trace(timing.answer, self._limited))
        self.posting = Posting(settings, self.client)
        discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False  # nobody here misses a voice

    @property
    def connected(self) -> bool:
        """Whether there is a session at this moment."""
        return self._client is not None and not self._client.is_closed() and self._client.is_ready()

    def client(self) -> HouseClient:
        """The client that can be used now. Raises RetryLater if there is none."""
        if self._client is None or self._client.is_closed():
            raise RetryLater(1.0, "Discord is not connected")
        return self._client

    def reload(self, settings: Settings) -> None:
        """Go by these from now on; the connection stays."""
        self._settings = settings
        self.posting.reload(settings)
        if self._client is not None:
            self._client.context.reload(settings)

    async def run(self, core: Core) -> None:
        """Connect, and connect again, until close(). Raises FatalAdapterError."""
        intake = Intake(core, self.posting, self.closing)
        try:
            await self._keep_living(core, intake)
        finally:
            await intake.end()

    async def _keep_living(self, core: Core, intake: Intake) -> None:
        while not self.closing.is_set():
            life = asyncio.create_task(self._live(core, intake), name="discord")
            closing = asyncio.create_task(self.closing.wait())
            try:
                await asyncio.wait([life, closing], return_when=asyncio.FIRST_COMPLETED)
            finally:
                closing.cancel()
                life.cancel()
                ended = (await asyncio.gather(life, return_exceptions=True))[0]
            if self.closing.is_set():
                return
            await self._sleep(self._after(ended))

    async def close(self) -> None:
        """End the connection; run() returns soon after."""
        self.closing.set()

    def _after(self, ended: BaseException | None) -> float:
        """Seconds until the next life, after what ended this one. Raises FatalAdapterError."""
        if isinstance(ended, FatalAdapterError):
            raise ended
        if ended is not None and (refusal := fatal(ended, self._application_id)):
            raise refusal from ended
        if isinstance(ended, TooSoon):
            wait = self._pace.session_in()
        else:
            wait = max(self._pace.retry_in(), self._pace.session_in())
        log.warning("The connection to Discord ended (%s); again in %.0f s.", _named(ended), wait)
        return wait

    async def _live(self, core: Core, intake: Intake) -> None:
        """One life of the client, to its end."""
        token = self._token()
        allowed = await self._wait_for_sessions(token)
        client = HouseClient(self._settings, core, intake, self._pace, allowed, self._line())
        presence = asyncio.create_task(client.keep_presence())
        try:
            async with hurried():
                await client.login(token)
            client.context.reload(self._settings)  # there may be others since this life began
            self._client = client
            await client.connect()
        finally:
            self._client = None
            presence.cancel()
            with contextlib.suppress(Exception):
                async with asyncio.timeout(5.0):
                    await client.close()

    async def _wait_for_sessions(self, token: str) -> Allowed:
        """What the portal allows, once enough sessions are left."""
        while True:
            allowed = await self._look(token)
            if allowed.sessions > KEPT:
                return allowed
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + allowed.resets_in_s))
            log.warning(
                "Discord lets this bot start only %d more sessions before %s; I wait for that, since a bot that uses "
                "them up loses its token.",
                allowed.sessions,
                until,
            )
            await self._sleep(allowed.resets_in_s + 1.0)

    async def _look(self, token: str) -> Allowed:
        """Ask Discord, without starting a session, what may be asked for."""
        line = self._line()
        scout = discord.AutoShardedClient(  # the only client that can be asked for the session limits
            intents=discord.Intents(guilds=True),
            connector=line.connector,
            proxy=line.proxy,
            http_trace=line.trace,
        )
        async with scout, hurried():
            await scout.login(token)
            limits = await scout.fetch_session_start_limits()
            self._application_id = scout.application_id
            flags = scout.application_flags
        reads_all = flags.gateway_message_content or flags.gateway_message_content_limited
        return Allowed(reads_all, limits.remaining, limits.reset_after / 1000)

    def _line(self) -> Line:
        connector = self._connect() if self._connect else None
        timing = self._timing
        proxy = proxy_for(self._settings)
        return Line(connector, proxy, timing.heartbeat, timing.guilds, self._trace)

    def _limited(self) -> None:
        self.rate_limited += 1

    def _token(self) -> str:
        if self._settings.discord_bot_token is None:
            raise FatalAdapterError("There is no DISCORD_BOT_TOKEN, so Discord cannot be connected to.")
        return self._settings.discord_bot_token.get_secret_value()

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for can swallow a cancellation
                await self.closing.wait()


def _named(ended: BaseException | None) -> str:
    """An error in a few words, without what it may quote."""
    if isinstance(ended, discord.ConnectionClosed):
        return f"closed with {ended.code}"
    if isinstance(ended, discord.HTTPException):
        return f"status {ended.status}"
    return type(ended).__name__ if ended else "closed"
