"""discord.py's client for REST calls, which need no gateway: logged in once, for as long as the adapter runs."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import discord

from adapters.discord.gateway.reconnect_backoff import RESERVED_SESSIONS
from adapters.discord.outbound.posting import NO_MENTIONS
from adapters.discord.request_limits import request_timeout
from bot.config.settings import Settings
from bot.types.errors import FatalAdapterError, NotSent

MAX_RATE_LIMIT_S = 600.0
"""discord.py refuses all calls of a bucket whose window ends later than this, even if it has calls left. So it is
longer than the longest window in use, which is the five minutes of opening threads. Seconds.
"""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What Discord allows: reading every message, and how many more sessions before the count is reset.

    shards: how many it recommends. at_once: `max_concurrency`, the shards that may IDENTIFY in the same five seconds.
    """

    reads_all: bool
    remaining: int
    resets_in_s: float
    shards: int
    at_once: int

    @property
    def for_a_shard(self) -> int:
        """How many sessions each shard may start, with some in reserve."""
        return (self.remaining - RESERVED_SESSIONS) // self.shards


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to connect. `idle_timeout_s`: without a frame for so long the connection counts as dead. `guilds_s`: how long
    to wait for one more server before a session counts as complete. `trace` observes the requests.
    """

    connector: aiohttp.BaseConnector | None
    proxy: str | None
    idle_timeout_s: float
    guilds_s: float
    trace: aiohttp.TraceConfig


class RestClient:
    """The client for REST calls. `options` makes those of each client."""

    def __init__(self, settings: Settings, options: Callable[[], ConnectionOptions]) -> None:
        self._token, self.options = settings.discord_bot_token, options
        self._client: discord.Client | None = None

    @property
    def token(self) -> str:
        """The bot's token. Raises FatalAdapterError if there is none."""
        if self._token is None:
            raise FatalAdapterError("DISCORD_BOT_TOKEN is not set, so Inhouse cannot connect to Discord.")
        return self._token.get_secret_value()

    @property
    def application_id(self) -> int | None:
        """The application's id, once it is known."""
        return self._client.application_id if self._client else None

    @property
    def logged_in(self) -> bool:
        """Whether calls can be made."""
        return self._client is not None

    def client(self) -> discord.Client:
        """The client. Raises NotSent before the login."""
        if self._client is None:
            raise NotSent(1.0, "Discord is not connected")
        return self._client

    async def login(self) -> None:
        """Log in. Raises discord.LoginFailure if Discord refuses the token."""
        token, options = self.token, self.options()
        client = discord.Client(
            intents=discord.Intents(guilds=True),  # discord.py warns without
            connector=options.connector,
            proxy=options.proxy,
            allowed_mentions=NO_MENTIONS,
            max_messages=None,
            max_ratelimit_timeout=MAX_RATE_LIMIT_S,
            http_trace=options.trace,
        )
        try:
            async with request_timeout():
                await client.login(token)
        except BaseException:
            with contextlib.suppress(Exception):
                await client.http.close()
            raise
        self._client = client

    async def limits(self) -> SessionLimits:
        """Ask Discord for the intents, the sessions left and the shards, without starting a session.

        Discord counts the sessions of a token, so those of all hosts are in the count.
        """
        client = self.client()
        try:
            async with request_timeout():
                flags = (await client.application_info()).flags
                shards, _, sessions = await client.http.get_bot_gateway()
        except discord.HTTPException as error:
            if error.status == 401:
                raise discord.LoginFailure("Discord refused the token") from error
            raise
        return SessionLimits(
            flags.gateway_message_content or flags.gateway_message_content_limited,
            sessions["remaining"],
            sessions["reset_after"] / 1000,
            max(1, shards),
            max(1, sessions["max_concurrency"]),
        )

    async def close(self) -> None:
        """Close the client."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                await client.http.close()
