"""Tests two hosts whose turns at Discord's gateway are leases on a PostgreSQL server."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.discord.adapter import DiscordAdapter
from adapters.discord.gateway.gateway import GatewayTiming
from bot.service.turns import LeasedTurns, LeaseTiming
from bot.storage import Host, Leases, Storage
from bot.types.errors import StorageError
from tests.support.builders.discord_adapter import settings_of
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.recording_core import RecordingCore
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.databases"]

GATEWAY = GatewayTiming(guilds=0.05, gap=0.1, overlap=1.0)
TIMING = LeaseTiming(valid=4.0, every=0.3, poll=0.1, cut_off=0.0)
OTHER = Host("other", 1, 100.0, 10.0, frozenset({"adapters"}), 1, "small", frozenset(), None, holds=False)


@pytest.fixture
async def storage(tmp_path: Path, postgresql: PostgresqlProcess) -> AsyncIterator[Storage]:
    """A storage on the server."""
    storage = await Storage.open(tmp_path, postgresql.new_database())
    yield storage
    await storage.close()


@asynccontextmanager
async def run_host(
    server: FakeDiscord,
    leases: Leases,
    name: str,
    timing: LeaseTiming = TIMING,
    outage_over_for_s: Callable[[], float] = lambda: math.inf,
) -> AsyncIterator[RecordingCore]:
    """Runs an adapter as one of several hosts."""
    core = RecordingCore()
    adapter = DiscordAdapter(settings_of(server), server.connector, GATEWAY)
    async with LeasedTurns(leases, name, lambda: [OTHER], outage_over_for_s=outage_over_for_s, timing=timing) as turns:
        running = asyncio.create_task(adapter.run(core, turns))
        try:
            yield core
        finally:
            await adapter.close()
            async with asyncio.timeout(20):
                await asyncio.gather(running, return_exceptions=True)


async def test_the_next_host_connects_when_one_ends_and_when_one_is_cut_off(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    share, cut_off = storage.leases.share, set[str]()

    async def share_unless_cut_off(owner: str, *arguments: Any, **more: Any) -> set[str]:  # Any: passed on
        if owner in cut_off:
            raise StorageError("The database cannot be reached.")
        return await share(owner, *arguments, **more)

    monkeypatch.setattr(storage.leases, "share", share_unless_cut_off)
    async with FakeDiscord() as server, run_host(server, storage.leases, "second") as second:
        ana, general = server.user("ana"), server.text_channel("general")
        await server.until(lambda: second.caught_up == 1 and server.gateway.online)
        async with run_host(server, storage.leases, "first") as first:
            await asyncio.sleep(1.0)
            assert len(server.gateway.identifies) == 1
            cut_off.add("second")
            await server.until(lambda: first.caught_up == 1 and server.gateway.online, timeout=15)
            await ana.says(general, "hello", mention=True)
            await first.message()
            assert not second.events
            cut_off.clear()
            await asyncio.sleep(1.0)
            assert len(server.gateway.identifies) == 2
        await server.until(lambda: second.caught_up == 2 and server.gateway.online)
        await ana.says(general, "and now?", mention=True)
        await second.message()
        assert len(server.gateway.identifies) == 3


async def test_an_outage_of_the_database_costs_no_session(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    share, away = storage.leases.share, asyncio.Event()
    timing = LeaseTiming(valid=4.0, every=2.0, poll=0.1)

    async def share_unless_away(*arguments: Any, **more: Any) -> set[str]:  # Any: passed on
        if away.is_set():
            raise StorageError("The database cannot be reached.")
        return await share(*arguments, **more)

    monkeypatch.setattr(storage.leases, "share", share_unless_away)
    async with FakeDiscord() as server, run_host(server, storage.leases, "first", timing) as first:
        ana, general = server.user("ana"), server.text_channel("general")
        await server.until(lambda: first.caught_up == 1 and server.gateway.online)
        async with run_host(server, storage.leases, "second", timing, lambda: 0.0):
            away.set()
            await asyncio.sleep(timing.valid + 1.0)
            await ana.says(general, "hello", mention=True)
            await first.message()
            away.clear()
            await asyncio.sleep(timing.valid)
            assert server.gateway.online
            assert len(server.gateway.identifies) == 1


async def test_a_newcomer_gets_its_share_of_the_shards_and_gives_it_back(storage: Storage) -> None:
    async with FakeDiscord() as server:
        server.gateway.session_start.shards = 4
        ana, general = server.user("ana"), server.text_channel("general")

        def online() -> list[int]:
            return sorted(session.shard for session in server.gateway.online)

        async with run_host(server, storage.leases, "first") as first:
            await server.until(lambda: first.caught_up == 4 and online() == [0, 1, 2, 3])
            async with run_host(server, storage.leases, "second") as second:
                await server.until(lambda: second.caught_up == 2, timeout=15)
                await server.until(lambda: online() == [0, 1, 2, 3], timeout=15)
                await ana.says(general, "hello", mention=True)
                await server.until(lambda: len(first.events) + len(second.events) == 1)
            await server.until(lambda: first.caught_up == 6 and online() == [0, 1, 2, 3], timeout=15)
            assert len(server.gateway.identifies) == 8
