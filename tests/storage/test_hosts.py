"""Tests the hosts of one database: who holds what, and what counts as a killed run of the service."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import SecretStr

from bot.storage import Storage, StoredReply
from bot.types.messages import GenerationRequest
from tests.support.builders.storage_rows import answer, asked, part, said
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.databases"]


class Cluster:
    """Hosts on one database; `kill` has a lease expire at once."""

    def __init__(self, root: Path, url: SecretStr, server: PostgresqlProcess, stack: AsyncExitStack) -> None:
        self._root, self._url, self._server, self._stack = root, url, server, stack

    async def host(self, name: str) -> Storage:
        """Starts a host, again if it has run before."""
        storage = await Storage.open(self._root / name, self._url)
        self._stack.push_async_callback(storage.close)
        return storage

    async def kill(self, host: Storage, by: Storage) -> tuple[list[GenerationRequest], list[StoredReply]]:
        """Has `by` take over what a host held that died."""
        self.execute(f"UPDATE hosts SET expires_at = 1 WHERE name = '{host.hosts.this}'")
        (dead,) = [each for each in await by.hosts.all() if each.name == host.hosts.this]
        found = await by.hosts.take_over(dead)
        assert found is not None
        await host.close()
        return found

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Executes a statement."""
        return self._server.execute(statement, self._url)

    def counts(self) -> tuple[object, ...]:
        """Status, attempts and killed runs of the only request."""
        (row,) = self.execute("SELECT status, attempts, service_runs FROM requests")
        return row


@pytest.fixture
async def cluster(tmp_path: Path, url: SecretStr, postgresql: PostgresqlProcess) -> AsyncIterator[Cluster]:
    """No host yet."""
    async with AsyncExitStack() as stack:
        yield Cluster(tmp_path, url, postgresql, stack)


async def ask(storage: Storage, message_id: str = "m1", *, at: float = 1.0) -> str:
    """Stores a request, which `storage` holds; its id."""
    request = asked(message_id, at=at)
    assert await storage.inbox.accept(request.key, message_id, turns=[said(message_id, at=at)], request=request)
    return request.request_id


@pytest.mark.fault(68)
async def test_hand_overs_and_takers_that_die_do_not_count_as_killed_runs(cluster: Cluster) -> None:
    first, second = await cluster.host("first"), await cluster.host("second")
    request_id = await ask(first)
    for _ in range(3):
        assert await second.inbox.start(request_id)
        assert not await first.inbox.start(request_id)
        assert await second.hosts.withdraw(request_id)
        assert not await first.hosts.hand_over(request_id, second.hosts.this)
        assert cluster.counts() == ("waiting", 0, 0)
    for giver, taker in [(first, second), (second, first)] * 2:
        assert await taker.inbox.start(request_id)
        assert await giver.hosts.hand_over(request_id, taker.hosts.this)
        assert not await taker.hosts.withdraw(request_id)
        assert cluster.counts() == ("running", 0, 1)
        await taker.inbox.hand_back(request_id, 1.0, counts=False)
    assert await second.inbox.start(request_id)
    assert await cluster.kill(second, first) == ([], [])
    assert cluster.counts() == ("waiting", 0, 0)


@pytest.mark.fault(68)
async def test_a_request_of_three_killed_runs_tells_it_on_whichever_host(cluster: Cluster) -> None:
    hosts = [await cluster.host(name) for name in ("a", "b", "c", "d")]
    request_id = await ask(hosts[0])
    for number, (dead, rescuer) in enumerate(pairwise(hosts), 1):
        assert await dead.inbox.start(request_id)
        ((request,), _) = await cluster.kill(dead, rescuer)
        assert (request.attempts, request.service_runs) == (number, number)
        assert cluster.counts() == ("waiting", number, number)


async def test_what_another_host_took_is_not_taken_over_when_its_holder_dies(cluster: Cluster) -> None:
    first, second, third = [await cluster.host(name) for name in ("first", "second", "third")]
    request_id = await ask(first)
    assert await second.inbox.start(request_id)
    assert await cluster.kill(first, third) == ([], [])
    ((row),) = await second.hosts.unfinished()
    assert (row.host, row.taker, row.running) == (second.hosts.this, second.hosts.this, True)
    assert cluster.counts() == ("running", 0, 1)


async def test_what_this_host_took_is_handed_over_when_it_rescues_its_holder(cluster: Cluster) -> None:
    first, second = await cluster.host("first"), await cluster.host("second")
    taken = await ask(first)
    waiting = asked("m2", at=2.0)
    await first.inbox.add_request(waiting)
    assert await second.inbox.start(taken)
    requests, _ = await cluster.kill(first, second)
    assert [request.request_id for request in requests] == [waiting.request_id]
    assert {row.host for row in await second.hosts.unfinished()} == {second.hosts.this}


async def test_a_second_rescue_gets_the_requests_and_texts_of_both(cluster: Cluster) -> None:
    first, second, third = [await cluster.host(name) for name in ("first", "second", "third")]
    ended = asked("m1")
    await ask(first)
    await first.inbox.start(ended.request_id)
    await answer(first, ended, "an answer", part(ended))
    await ask(first, "m2", at=2.0)
    for dead, rescuer in ((first, second), (second, third)):
        requests, texts = await cluster.kill(dead, rescuer)
        assert [request.message_id for request in requests] == ["m2"]
        assert [text.reply.committed for text in texts] == ["an answer"]
    assert len(await third.outbox.undelivered()) == 1


async def test_only_one_of_two_hosts_takes_a_dead_one_over_and_none_after_its_restart(cluster: Cluster) -> None:
    first, second, third = [await cluster.host(name) for name in ("first", "second", "third")]
    await ask(first)
    cluster.execute(f"UPDATE hosts SET expires_at = 1 WHERE name = '{first.hosts.this}'")
    (dead,) = [each for each in await second.hosts.all() if each.name == first.hosts.this]
    both = await asyncio.gather(*(each.hosts.take_over(dead) for each in (second, third)))
    assert sorted(each is None for each in both) == [False, True]
    await first.close()
    again = await cluster.host("first")
    assert await again.inbox.recover() == []
    assert await second.hosts.take_over(dead) is None


async def test_a_restart_resets_what_the_host_was_taking(cluster: Cluster) -> None:
    first, second = await cluster.host("first"), await cluster.host("second")
    request_id = await ask(first)
    assert await second.inbox.start(request_id)
    await second.close()
    again = await cluster.host("second")
    assert await again.inbox.recover() == []
    assert cluster.counts() == ("waiting", 0, 0)
    assert await first.inbox.start(request_id)


async def test_a_conversation_runs_one_request_at_a_time_in_order_over_all_hosts(cluster: Cluster) -> None:
    first, second = await cluster.host("first"), await cluster.host("second")
    earlier, later = await ask(first), await ask(second, "m2", at=2.0)
    assert not await second.inbox.start(later)
    taken = await asyncio.gather(first.inbox.start(earlier), second.inbox.start(earlier))
    assert sorted(taken) == [False, True]
    assert not await second.inbox.start(later)


@pytest.mark.parametrize(
    "name", ['db\'s "%s" 100%: \\ $1', "büro-日本", "\udcff\udcfe", "a\n\x1b[31mb", "", "x" * 5000]
)
async def test_a_machine_may_have_any_name(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    first, second = await cluster.host("first"), await cluster.host("second")
    assert first.hosts.this.isprintable()
    names = {host.name for host in await first.hosts.all()}
    assert names == {first.hosts.this, second.hosts.this}
    assert await first.leases.share(first.hosts.this, ["a", "b"], ["a", "b"], [], 5.0) == {"a", "b"}
    assert await second.leases.share(second.hosts.this, ["a", "b"], ["a", "b"], [], 5.0) == set()
    woken = threading.Event()
    second.on_wake(woken.set)
    assert await asyncio.to_thread(woken.wait, 5.0)
    woken.clear()
    await ask(first)
    assert await asyncio.to_thread(woken.wait, 5.0)


@pytest.mark.parametrize(
    ("left", "forgotten"),
    [
        ("-EPOCH + 31 * 86400", True),  # it ended 31 days ago
        ("EPOCH - 31 * 86400", True),  # nobody noticed that it died
        ("-EPOCH + 29 * 86400", False),
        ("-EPOCH", False),
        ("EPOCH + 15", False),
        ("0", False),  # by an earlier version
    ],
)
async def test_a_host_that_has_been_gone_for_long_is_forgotten(cluster: Cluster, left: str, forgotten: bool) -> None:
    first, second = await cluster.host("first"), await cluster.host("second")
    request_id = await ask(first)
    await first.close()
    epoch = "extract(epoch FROM clock_timestamp())"
    cluster.execute(f"UPDATE hosts SET expires_at = {left.replace('EPOCH', epoch)} WHERE name = '{first.hosts.this}'")
    assert await second.hosts.forget(30 * 86400.0) == 0, "it holds a request"
    (gone,) = [host for host in await second.hosts.all() if host.name == first.hosts.this]
    assert gone.holds
    cluster.execute(f"UPDATE requests SET host = '{second.hosts.this}'")
    assert await second.hosts.forget(30 * 86400.0) == forgotten
    assert len(await second.hosts.all()) == 2 - forgotten
    again = await cluster.host("first")
    assert again.hosts.this == first.hosts.this
    assert len(await second.hosts.all()) == 2
    assert await again.inbox.start(request_id)


@pytest.mark.parametrize("how", ["ends", "is declared dead"])
async def test_the_time_of_a_hosts_end_is_stored(cluster: Cluster, how: str) -> None:
    first, second = await cluster.host("first"), await cluster.host("second")
    if how == "is declared dead":
        assert await cluster.kill(first, second) == ([], [])
    await first.close()
    ago = "extract(epoch FROM clock_timestamp()) + expires_at"
    ((seconds,),) = cluster.execute(f"SELECT {ago} FROM hosts WHERE name = '{first.hosts.this}'")
    assert 0 <= float(str(seconds)) < 60


async def test_an_empty_file_with_the_name_of_a_host_is_written_anew(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "instance").write_text("\n")
    first = await cluster.host("first")
    assert first.hosts.this
