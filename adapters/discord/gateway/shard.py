"""Keeps one shard connected while it is this host's turn: one client after the other, within the limits of sessions.

A bot in few servers is one shard, without a number. With more, Discord sends a server's events to one of them, and
direct messages to the first.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import discord

from adapters.discord.channels import PLATFORM
from adapters.discord.error_mapping import SHARD_CLOSES, fatal_error
from adapters.discord.gateway.client import MAX_IDENTIFY_WAIT_S, GatewayClient, SessionLimitReached
from adapters.discord.gateway.reconnect_backoff import ReconnectBackoff
from adapters.discord.gateway.rest import RestClient, SessionLimits
from adapters.discord.inbound.intake import Intake
from adapters.discord.request_limits import request_timeout
from bot.config.settings import Settings
from bot.platforms.adapter import Core
from bot.platforms.turns import Turns, while_held
from bot.types.errors import FatalAdapterError

log = logging.getLogger(__name__)


class ShardsRefused(Exception):
    """Discord wants another number of shards; `refusal` is the error if it recommends no other."""

    def __init__(self, refusal: FatalAdapterError | None) -> None:
        super().__init__()
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class ShardNumber:
    """The shard `index` of `count`."""

    index: int
    count: int

    @property
    def name(self) -> str:
        """The name of its turn."""
        return PLATFORM if self.count == 1 else f"{PLATFORM} shard {self.index}/{self.count}"

    @property
    def all_names(self) -> list[str]:
        """The names of all shards' turns."""
        return [ShardNumber(index, self.count).name for index in range(self.count)]


@dataclass(frozen=True, slots=True)
class ShardTiming:
    """Seconds. gap: the least time between two sessions, of this shard or of those that Discord counts with it.
    overlap: how long it stays connected when its turn is lost. unreachable: without a connection for so long, the turn
    is left to another host. away: the pauses before this host looks whether Discord answers, and wants its turn again.
    """

    gap: float
    overlap: float
    unreachable: float
    away: float


class Shard:
    """One shard. Call `run` once."""

    def __init__(
        self,
        number: ShardNumber,
        rest: RestClient,
        turns: Turns,
        core: Core,
        intake: Intake,
        settings: Callable[[], Settings],
        timing: ShardTiming,
    ) -> None:
        self._number, self._rest, self._turns = number, rest, turns
        self._core, self._intake, self._settings = core, intake, settings
        self._timing = timing
        self._backoff = ReconnectBackoff(timing.gap)
        self._client: GatewayClient | None = None
        self._paused = False
        self.held = self.began = False
        """Whether it is this host's turn, and whether that began with a session, which reads back what was missed."""

    @property
    def client(self) -> GatewayClient | None:
        """The client, if there is one."""
        return self._client if self._client is not None and not self._client.is_closed() else None

    @property
    def connected(self) -> bool:
        """Whether there is a session at this moment."""
        return self.client is not None and self.client.connected

    async def run(self) -> None:
        """Stay connected whenever it is this host's turn. Raises FatalAdapterError or ShardsRefused."""
        name, among, timing = self._number.name, self._number.all_names, self._timing
        while True:
            await while_held(self._turns, name, self._until_unreachable, among=among, overlap_s=timing.overlap)
            log.warning(
                "There has been no connection to Discord for %.0f s; leaving it to another host.", timing.unreachable
            )
            await self._until_reachable()

    async def _until_unreachable(self) -> None:
        """Stay connected until this host cannot, and there is another one."""
        serving = asyncio.create_task(self._reconnect_forever())
        clock = asyncio.get_running_loop().time
        linked_at = clock()
        try:
            while self._turns.hosts <= 1 or clock() - linked_at < self._timing.unreachable:
                await asyncio.wait([serving], timeout=self._timing.unreachable / 10)
                if serving.done():
                    serving.result()
                if self._paused or (self.client is not None and self.client.linked):
                    linked_at = clock()
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def _until_reachable(self) -> None:
        """Wait until Discord answers this host. Raises FatalAdapterError."""
        while True:
            await asyncio.sleep(self._timing.away)
            try:
                await self._rest.limits()
                return
            except Exception as error:
                if refusal := fatal_error(error, self._rest.application_id):
                    raise refusal from error

    async def _reconnect_forever(self) -> None:
        self.held = True
        try:
            while True:
                outcome: Exception | None = None
                try:
                    await self._run_client()
                except Exception as error:
                    outcome = error
                await asyncio.sleep(self._reconnect_delay(outcome))
        finally:
            self.held = self.began = False

    def _reconnect_delay(self, outcome: Exception | None) -> float:
        """Seconds until the next client, from the outcome of the last one. Raises what no new client can help."""
        if isinstance(outcome, FatalAdapterError):
            raise outcome
        refusal = fatal_error(outcome, self._rest.application_id) if outcome else None
        if isinstance(outcome, discord.ConnectionClosed) and outcome.code in SHARD_CLOSES:
            raise ShardsRefused(refusal) from outcome
        if refusal:
            raise refusal from outcome
        wait = self._backoff.seconds_to_session()
        if not isinstance(outcome, SessionLimitReached):
            wait = max(self._backoff.next_retry(), wait)
        log.warning("Disconnected from Discord (%s); reconnecting in %.0f s.", error_name(outcome), wait)
        return wait

    async def _run_client(self) -> None:
        """Run one client until its connection ends."""
        limits = await self._wait_for_sessions()
        bucket = self._number.index % limits.at_once

        async def pause() -> None:
            await self._turns.pause(f"{PLATFORM} identify {bucket}", self._timing.gap, MAX_IDENTIFY_WAIT_S)

        shard = (self._number.index, self._number.count) if self._number.count > 1 else None
        options, settings = self._rest.options(), self._settings()
        client = GatewayClient(
            settings, self._core, self._intake, self._backoff, limits, options, pause, self._may_answer, shard
        )
        presence = asyncio.create_task(client.keep_presence())
        try:
            async with request_timeout():
                await client.login(self._rest.token)
            # most of the wait is here, since a connection must not wait for long before its IDENTIFY
            with self._pausing():
                await self._turns.pause(f"{PLATFORM} connect {bucket}", self._timing.gap)
            client.context.reload(self._settings())  # a reload may have come meanwhile
            self._client, self.began = client, True
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

    def _may_answer(self) -> bool:
        """Whether no other host can get the same interactions, of which this one could store nothing."""
        return self._turns.may_send or self._turns.hosts <= 1

    async def _wait_for_sessions(self) -> SessionLimits:
        """What Discord allows, once enough sessions are left."""
        while True:
            limits = await self._rest.limits()
            if limits.for_a_shard > 0:
                return limits
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + limits.resets_in_s))
            log.warning(
                "Only %d more sessions are left before %s. Waiting until then, since Discord resets the token of a bot "
                "that uses up all of them.",
                limits.remaining,
                until,
            )
            with self._pausing():
                await asyncio.sleep(limits.resets_in_s + 1.0)

    @contextlib.contextmanager
    def _pausing(self) -> Iterator[None]:
        """Around a wait that does not mean that Discord cannot be reached."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False


def error_name(outcome: BaseException | None) -> str:
    """A short name for an error, without text that it may quote."""
    if isinstance(outcome, discord.ConnectionClosed):
        return f"closed with {outcome.code}"
    if isinstance(outcome, discord.HTTPException):
        return f"status {outcome.status}"
    return type(outcome).__name__ if outcome else "closed"
