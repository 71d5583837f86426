"""Tests storage on a server behind PgBouncer in transaction mode: no state of a session is relied on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from bot.storage import Storage, postgresql
from bot.types.errors import StorageError
from bot.types.messages import RequestStatus
from tests.support.builders.storage_rows import KEY, answer, ask, part, texts
from tests.support.fakes.database_relay import DatabaseRelay, run_relay
from tests.support.pgbouncer import PgBouncerProcess
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.databases"]


@pytest.fixture
async def relay_before(pgbouncer: PgBouncerProcess) -> AsyncIterator[DatabaseRelay]:
    """A relay in front of the pooler."""
    async with run_relay(pgbouncer.socket) as relay:
        yield relay


@pytest.fixture
def pooler(relay: DatabaseRelay) -> Iterator[PgBouncerProcess]:
    """A pooler whose connections to the server the relay may lose."""
    pooler = PgBouncerProcess("127.0.0.1", relay.port)
    yield pooler
    pooler.close()


async def test_many_reads_and_writes_at_once_share_two_connections_to_the_server(
    tmp_path: Path, pgbouncer: PgBouncerProcess, url: SecretStr, postgresql: PostgresqlProcess
) -> None:
    storage = await Storage.open(tmp_path, pgbouncer.url(url))
    for number in range(3):
        reading = asyncio.gather(*(storage.history.turns(KEY) for _ in range(20)))
        requests = await asyncio.gather(*(ask(storage, f"m{number}-{each}", at=float(each)) for each in range(20)))
        await asyncio.gather(*(answer(storage, each, f"answer {each.message_id}", part(each)) for each in requests))
        await reading
        await storage.history.set(KEY, "model", f"model {number}")
    read = texts(await storage.history.turns(KEY))
    assert sorted(read) == sorted(["hello"] * 60 + [f"answer m{n}-{each}" for n in range(3) for each in range(20)])
    sessions = (
        "SELECT count(*) <= 2 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert postgresql.execute(sessions, url) == [(True,)]
    await storage.close()
    again = await Storage.open(tmp_path, pgbouncer.url(url))
    assert await again.history.settings(KEY) == {"model": "model 2"}
    assert await again.inbox.recover() == []
    stored = await again.inbox.request(requests[0].request_id)
    assert stored is not None
    assert stored.status is RequestStatus.FINISHED
    await again.close()


@pytest.mark.parametrize("what", ["request", "answer"])
async def test_a_commit_whose_outcome_the_client_lost_is_done_once(
    tmp_path: Path, relay_before: DatabaseRelay, url: SecretStr, postgresql: PostgresqlProcess, what: str
) -> None:
    storage = await Storage.open(tmp_path, relay_before.url(url))
    await asks_through_lost_commits(storage, relay_before, what)
    assert postgresql.execute("SELECT count(*) FROM requests", url) == [(4,)]
    await storage.close()


@pytest.mark.parametrize("what", ["request", "answer"])
async def test_a_commit_whose_outcome_the_pooler_lost_is_done_once(
    tmp_path: Path,
    pooler: PgBouncerProcess,
    relay: DatabaseRelay,
    url: SecretStr,
    postgresql: PostgresqlProcess,
    what: str,
) -> None:
    storage = await Storage.open(tmp_path, pooler.url(url))
    await asks_through_lost_commits(storage, relay, what)
    assert postgresql.execute("SELECT count(*) FROM requests", url) == [(4,)]
    await storage.close()


async def asks_through_lost_commits(storage: Storage, relay: DatabaseRelay, what: str) -> None:
    await ask(storage, "m1")
    for number in range(3):
        relay.lose_commit(what)
        await ask(storage, f"n{number}")  # fails if it is stored twice
        assert relay.lost.is_set()


@pytest.mark.usefixtures("short_leases")
async def test_two_hosts_write_and_one_that_was_declared_dead_writes_nothing_any_more(
    tmp_path: Path, pgbouncer: PgBouncerProcess, relay_before: DatabaseRelay, url: SecretStr
) -> None:
    first = await Storage.open(tmp_path / "first", relay_before.url(url))
    second = await Storage.open(tmp_path / "second", pgbouncer.url(url))
    await asyncio.gather(*(ask(host, f"m{n}", at=float(n)) for n, host in enumerate((first, second) * 10)))
    await relay_before.cut()  # the first one cannot renew its lease
    await asyncio.sleep(1.5 * postgresql.LEASE_S)
    (dead,) = [host for host in await second.hosts.all() if host.name != second.hosts.this]
    taken_over = await second.hosts.take_over(dead)
    assert taken_over is not None
    assert [request.message_id for request in taken_over[0]] == [f"m{n}" for n in range(0, 20, 2)]
    await relay_before.start()
    async with asyncio.timeout(10):
        with pytest.raises(StorageError, match="has taken over"):
            await first.until_taken()
    with pytest.raises(StorageError, match="has taken over"):
        await ask(first, "m20")
    await first.close()
    assert len(await second.history.turns(KEY)) == 20
    await second.close()
