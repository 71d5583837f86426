"""Tests turns that are held by leases, with two hosts on one PostgreSQL server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine

from bot.platforms.turns import Always
from bot.service.turns import LeasedTurns, LeaseTiming
from bot.storage import Host, Storage
from bot.storage.leases import Leases
from bot.storage.postgresql import driver_url
from tests.support.fakes.database_relay import DatabaseRelay

pytest_plugins = ["tests.support.fixtures.databases"]

QUICK = LeaseTiming(valid=8.0, every=0.2, poll=0.05)
NAME = "discord"
SHARDS = [f"discord shard {index}/4" for index in range(4)]


@pytest.fixture
async def storage(tmp_path: Path, url: SecretStr, relay: DatabaseRelay) -> AsyncIterator[Storage]:
    """A storage whose connections the relay may lose."""
    storage = await Storage.open(tmp_path, relay.url(url))
    yield storage
    await storage.close()


def host(storage: Storage, name: str, timing: LeaseTiming = QUICK) -> LeasedTurns:
    """The turns of a host."""
    return LeasedTurns(storage.leases, name, outage_over_for_s=lambda: storage.outage_over_for_s, timing=timing)


def other_host(role: str) -> Host:
    """A host that is alive."""
    return Host("other", 1, 100.0, 10.0, frozenset({role}), 1, "small", frozenset(), None, holds=False)


async def until(condition: Callable[[], bool]) -> None:
    """Waits until a condition is true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- the hosts tell nobody
            await asyncio.sleep(0.02)


async def until_held(storage: Storage) -> None:
    """Waits until a host has a lease of the turn that lasts."""
    async with asyncio.timeout(10):
        while await storage.leases.any_free([NAME]):  # noqa: ASYNC110 -- the hosts tell nobody
            await asyncio.sleep(0.02)


async def test_one_host_holds_a_turn_and_the_next_takes_it_when_that_one_ends(storage: Storage) -> None:
    async with host(storage, "second") as second:
        async with host(storage, "first") as first:
            await first.wait(NAME)
            waiting = asyncio.create_task(second.wait(NAME))
            await asyncio.sleep(1.0)  # several renewals
            assert first.holds(NAME)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 5.0)  # less than a lease
        assert second.holds(NAME)
        assert not first.holds(NAME)


async def test_a_released_turn_is_lost_at_once_and_may_come_back(storage: Storage) -> None:
    async with host(storage, "first") as first, host(storage, "second") as second:
        await first.wait(NAME)
        lost = asyncio.create_task(first.wait_lost(NAME))
        waiting = asyncio.create_task(second.wait(NAME))
        await asyncio.sleep(0.1)
        await first.release(NAME)
        await asyncio.wait_for(lost, 5.0)
        await asyncio.wait_for(waiting, 5.0)
        await second.release(NAME)
        await asyncio.wait_for(first.wait(NAME), 5.0)


async def test_a_wait_that_is_given_up_takes_no_turn(storage: Storage) -> None:
    async with host(storage, "first") as first, host(storage, "second") as second:
        await first.wait(NAME)
        waiting = asyncio.create_task(second.wait(NAME))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await first.release(NAME)
        await asyncio.sleep(0.5)
        assert await storage.leases.any_free([NAME])


async def test_the_turn_of_a_dead_host_is_taken_when_its_lease_ends_and_not_before(storage: Storage) -> None:
    assert await storage.leases.share("dead", [NAME], [NAME], [], 1.0) == {NAME}
    assert await storage.leases.share("living", [NAME], [NAME], [], 1.0) == set()
    async with host(storage, "living") as living:
        await asyncio.wait_for(living.wait(NAME), 5.0)


async def test_a_host_stays_connected_while_the_database_is_away(storage: Storage, relay: DatabaseRelay) -> None:
    others: list[Host] = []
    short = LeaseTiming(valid=2.0, every=0.2, poll=0.05, cut_off=60.0)
    async with LeasedTurns(storage.leases, "first", lambda: others, timing=short) as first:
        await first.wait(NAME)
        lost = asyncio.create_task(first.wait_lost(NAME))
        await relay.cut()
        await asyncio.sleep(3.0)
        others.append(other_host("adapters"))
        await asyncio.sleep(0.3)
        assert not lost.done(), "its lease has ended, and perhaps nobody can take it"
        await relay.start()
        await until_held(storage)
        assert not lost.done()


async def test_after_an_outage_the_turn_stays_with_its_host(storage: Storage, relay: DatabaseRelay) -> None:
    short = LeaseTiming(valid=5.0, every=3.0, poll=0.1)
    async with host(storage, "first", short) as first, host(storage, "second", short) as second:
        await first.wait(NAME)
        waiting = asyncio.create_task(second.wait(NAME))
        await relay.cut()
        await asyncio.sleep(6.0)
        async with host(storage, "third", short) as third:  # it has just started
            later = asyncio.create_task(third.wait(NAME))
            await relay.start()
            await until_held(storage)
            assert first.holds(NAME)
            assert not waiting.done()
            assert not later.done()
            later.cancel()


async def test_a_host_that_is_cut_off_gives_up_its_turn_if_there_are_others(
    storage: Storage, relay: DatabaseRelay
) -> None:
    others = [other_host("worker")]
    short = LeaseTiming(valid=2.0, every=0.2, poll=0.05, cut_off=0.5)
    async with LeasedTurns(storage.leases, "first", lambda: others, timing=short) as first:
        await first.wait(NAME)
        lost = asyncio.create_task(first.wait_lost(NAME))
        await relay.cut()
        await asyncio.sleep(3.0)
        assert not lost.done(), "no other host receives events"
        others.append(other_host("adapters"))
        await asyncio.wait_for(lost, 5.0)
        await first.release(NAME)
        await relay.start()
        await asyncio.wait_for(first.wait(NAME), 10.0)


async def test_a_host_that_was_cut_off_gives_up_a_turn_that_another_one_took(
    storage: Storage, relay: DatabaseRelay, tmp_path: Path, url: SecretStr
) -> None:
    own_connection = await Storage.open(tmp_path / "other", url)
    short = LeaseTiming(valid=2.0, every=0.2, poll=0.05)
    async with host(storage, "first", short) as first:
        await first.wait(NAME)
        lost = asyncio.create_task(first.wait_lost(NAME))
        await relay.cut()
        async with host(own_connection, "second", short) as second:
            await asyncio.wait_for(second.wait(NAME), 10.0)
            assert not lost.done()
            await relay.start()
            await asyncio.wait_for(lost, 10.0)
            assert second.holds(NAME)
    await own_connection.close()


async def test_a_host_that_is_cut_off_gives_up_what_all_hosts_hold_until_it_has_a_lease_again(storage: Storage) -> None:
    may_send, others = True, [other_host("worker")]

    def turns_of(cut_off: float) -> LeasedTurns:
        timing = LeaseTiming(poll=0.02, cut_off=cut_off)
        return LeasedTurns(storage.leases, "first", lambda: others, lambda: may_send, timing=timing)

    async with turns_of(0.3) as turns, turns_of(60.0) as patient:
        await asyncio.wait_for(turns.wait("slack"), 5.0)
        lost, later = [asyncio.create_task(each.wait_lost("slack")) for each in (turns, patient)]
        await asyncio.sleep(0.5)
        may_send = False
        await asyncio.sleep(0.5)
        assert not lost.done(), "no other host can get the events"
        assert turns.holds_any("slack")
        others.append(other_host("adapters"))
        await asyncio.wait_for(lost, 10.0)
        assert not turns.holds_any("slack")
        assert patient.holds_any("slack"), "all hosts may be without the database"
        await turns.release("slack")
        waiting = asyncio.create_task(turns.wait("slack"))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        may_send = True
        await asyncio.wait_for(waiting, 10.0)
        assert turns.holds_any("slack")
        later.cancel()


async def test_turns_are_divided_among_hosts_that_come_and_go(storage: Storage) -> None:
    def wants_all(turns: LeasedTurns) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(turns.wait(name, SHARDS)) for name in SHARDS]

    def number(turns: LeasedTurns) -> int:
        return sum(map(turns.holds, SHARDS))

    async with host(storage, "first") as first:
        tasks = wants_all(first)
        await until(lambda: number(first) == 4)
        async with host(storage, "second") as second:
            tasks += (waits := wants_all(second))
            await until(lambda: (number(first), number(second)) == (2, 2))
            for task in waits:
                task.cancel()
        await until(lambda: not any(map(second.holds, SHARDS)))
        tasks += [asyncio.create_task(first.wait(name, SHARDS)) for name in SHARDS]
        await until(lambda: number(first) == 4)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_claim_does_not_wait_for_what_another_host_holds(storage: Storage, url: SecretStr) -> None:
    names = ["a", "b", "c"]
    assert await storage.leases.share("second", names, ["b"], [], 60.0) == {"b"}
    engine = create_engine(driver_url(url.get_secret_value()))
    with engine.begin() as renewal_of_second:
        renewal_of_second.exec_driver_sql("UPDATE leases SET epoch = epoch WHERE name = 'b'")
        assert await storage.leases.share("first", names, names, [], 60.0) == {"a", "c"}
    engine.dispose()


async def test_pauses_of_all_hosts_are_one_after_the_other(storage: Storage) -> None:
    waits = [await storage.leases.reserve(owner, "identify 0", 60.0) for owner in ("first", "second", "first")]
    assert [round(wait or 0.0, -1) for wait in waits] == [0, 60, 120]
    assert await storage.leases.reserve("second", "identify 1", 60.0) == 0


async def test_a_pause_that_would_be_too_long_is_not_reserved(storage: Storage) -> None:
    async with host(storage, "first") as first:
        for turns in (first, Always()):
            await turns.pause("identify 0", 60.0)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await turns.pause("identify 0", 60.0, at_most=20.0)
    wait = await storage.leases.reserve("second", "identify 0", 60.0)
    assert wait is not None
    assert round(wait, -1) == 60


async def test_a_bug_in_an_election_does_not_end_all_elections(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Leases.share
    failures = [ValueError("a bug")]

    async def fail_once(*words: Any, **more: Any) -> set[str]:  # Any: those of `share`
        if failures:
            raise failures.pop()
        return await share(*words, **more)

    monkeypatch.setattr(Leases, "share", fail_once)
    async with host(storage, "first") as first:
        await asyncio.wait_for(first.wait(NAME), 5.0)


async def test_every_host_holds_what_the_platform_allows_all_to_hold(storage: Storage) -> None:
    async with host(storage, "first") as first, host(storage, "second") as second:
        await first.wait("slack")
        await second.wait("slack")
        assert first.holds("slack")
        assert second.holds("slack")
