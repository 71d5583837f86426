"""Keeps the bot connected to Discord: logs in for REST calls, and runs the shards that Discord recommends.

Calls need no gateway, so a host that holds no shard posts, edits and finds messages all the same. Only an error that
needs a person ends the adapter.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.request import getproxies, proxy_bypass

import aiohttp
import discord

from adapters.discord.error_mapping import fatal_error
from adapters.discord.gateway.client import GatewayClient
from adapters.discord.gateway.reconnect_backoff import ReconnectBackoff
from adapters.discord.gateway.rest import ConnectionOptions, RestClient
from adapters.discord.gateway.shard import Shard, ShardNumber, ShardsRefused, ShardTiming, error_name
from adapters.discord.inbound.intake import Intake
from adapters.discord.outbound.posting import Posting
from adapters.discord.request_limits import REQUEST_TIMEOUT_S, GlobalRateLimit, timeout_trace
from bot.config.settings import Settings
from bot.platforms.adapter import Core
from bot.platforms.turns import Always, Turns
from bot.types.errors import FatalAdapterError, NotSent
from bot.types.messages import ConversationKey

log = logging.getLogger(__name__)

ConnectorFactory = Callable[[], aiohttp.BaseConnector]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GatewayTiming:
    """Seconds. `heartbeat`: without a frame for so long the connection is dead (Discord sends one every 41.25 s; with
    the 30 s that a close may take, this stays below two heartbeats). `guilds`: how long to wait for one more server
    before a session counts as complete. `gap`: the least time between two sessions. `answer`: timeout of a request.
    `overlap`: how long a shard that goes to another host stays connected; both get its events, and one of them counts.
    `unreachable`: a host that has no connection for so long leaves the shard to another one, `away`: at least so long.
    """

    heartbeat: float = 50.0
    guilds: float = 1.0
    gap: float = 5.0
    answer: float = REQUEST_TIMEOUT_S
    overlap: float = 10.0
    unreachable: float = 60.0
    away: float = 30.0


def proxy_for(settings: Settings) -> str | None:
    """The proxy to Discord: the setting, else the environment's."""
    if settings.discord_proxy or proxy_bypass("discord.com"):
        return settings.discord_proxy
    return getproxies().get("https")


class Gateway:
    """The connection of one bot. `posting` writes through it."""

    def __init__(self, settings: Settings, connect: ConnectorFactory | None, timing: GatewayTiming) -> None:
        self._settings, self._connect, self._timing = settings, connect, timing
        self._rest = RestClient(settings, self._options)
        self._shards: list[Shard] = []
        self.closing = asyncio.Event()
        self.rate_limited = 0
        """How often Discord answered 429."""
        self._turns: Turns = Always()
        rate_limit = GlobalRateLimit(lambda: self._turns)
        self._trace = rate_limit.add_to(timeout_trace(timing.answer, self._count_rate_limit))
        self.posting = Posting(settings, self.client)
        discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False  # no voice is needed

    @property
    def connected(self) -> bool:
        """Whether each shard of this host has a session at this moment; without one, whether messages can be posted."""
        held = [shard.connected for shard in self._shards if shard.held]
        return self._rest.logged_in and bool(self._shards) and all(held)

    def client(self, key: ConversationKey) -> discord.Client:
        """The client for calls in a conversation: the one that knows its server, else any. Raises NotSent."""
        shard = self._shard_of(key)
        return (shard.client if shard else None) or self._rest.client()

    def reading_client(self, key: ConversationKey) -> GatewayClient | None:
        """The client that knows the server of a conversation, for reading it back.

        None if another host or the first session of its shard reads it back. Raises NotSent between two sessions.
        """
        shard = self._shard_of(key)
        if shard is not None and shard.client is None and shard.began:
            raise NotSent(1.0, "Discord is not connected")
        return shard.client if shard else None

    def _shard_of(self, key: ConversationKey) -> Shard | None:
        if not self._shards:
            return None
        server = int(key.workspace) if key.workspace else 0
        return self._shards[(server >> 22) % len(self._shards)]  # as Discord assigns servers

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on; the connection stays."""
        self._settings = settings
        self.posting.reload(settings)
        for shard in self._shards:
            if shard.client is not None:
                shard.client.context.reload(settings)

    async def run(self, core: Core, turns: Turns) -> None:
        """Stay connected until close(). Raises FatalAdapterError."""
        self._turns = turns
        intake = Intake(core, self.posting, self.closing)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._rest.close)
            stack.push_async_callback(intake.end)
            serving = asyncio.create_task(self._serve(core, intake, turns), name="discord")
            closing = asyncio.create_task(self.closing.wait())
            try:
                await asyncio.wait([serving, closing], return_when=asyncio.FIRST_COMPLETED)
            finally:
                serving.cancel()
                closing.cancel()
                outcome = (await asyncio.gather(serving, closing, return_exceptions=True))[0]
        if isinstance(outcome, Exception):
            raise outcome

    async def close(self) -> None:
        """End the connection; run() returns soon after."""
        self.closing.set()

    async def _serve(self, core: Core, intake: Intake, turns: Turns) -> None:
        """Run as many shards as Discord recommends. Raises FatalAdapterError."""
        await self._until_answered(self._rest.login)
        refusal: FatalAdapterError | None = None
        while True:
            count = (await self._until_answered(self._rest.limits)).shards
            if refusal and count == len(self._shards):
                raise refusal
            numbers = [ShardNumber(index, count) for index in range(count)]
            timing = self._timing
            waits = ShardTiming(timing.gap, timing.overlap if count > 1 else 0.0, timing.unreachable, timing.away)
            self._shards = [
                Shard(number, self._rest, turns, core, intake, lambda: self._settings, waits) for number in numbers
            ]
            try:
                await _run_all(self._shards)
            except ShardsRefused as error:
                refusal = error.refusal

    async def _until_answered(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call to Discord, again while it fails. Raises FatalAdapterError."""
        backoff = ReconnectBackoff(self._timing.gap)
        while True:
            try:
                return await call()
            except FatalAdapterError:
                raise
            except Exception as error:
                if refusal := fatal_error(error, self._rest.application_id):
                    raise refusal from error
                wait = backoff.next_retry()
                log.warning("Discord does not answer (%s); trying again in %.0f s.", error_name(error), wait)
                await asyncio.sleep(wait)

    def _options(self) -> ConnectionOptions:
        connector = self._connect() if self._connect else None
        timing = self._timing
        proxy = proxy_for(self._settings)
        return ConnectionOptions(connector, proxy, timing.heartbeat, timing.guilds, self._trace)

    def _count_rate_limit(self) -> None:
        self.rate_limited += 1


async def _run_all(shards: list[Shard]) -> None:
    """Run shards until one ends with an error."""
    tasks = [asyncio.create_task(shard.run()) for shard in shards]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
