"""Tests hand-overs between two hosts that take long or are cut short: one answer in one message, whatever happens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from bot.hosts import handover, host_watch
from bot.storage import Unfinished, postgresql
from bot.storage.hosts import Hosts
from bot.types.errors import StorageError
from bot.types.messages import FinishReason, Notice, Reply
from tests.support.builders.databases import CHOSEN
from tests.support.builders.hosts import TwoHosts, channel_of, run_host
from tests.support.builders.storage_rows import rows
from tests.support.fakes.database_relay import DatabaseRelay
from tests.support.fakes.scripted_platform import ScriptedPlatform

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = [
    pytest.mark.usefixtures("each_database"),
    pytest.mark.parametrize("each_database", ["PostgreSQL"], indirect=True),
]

TAKEN = "SELECT count(*) FROM requests WHERE status = 'running' AND host <> taker"
WAITS = "SELECT count(*) FROM requests WHERE status = 'waiting'"
TWO = "SELECT status, service_runs, attempts FROM requests ORDER BY id OFFSET 1"


@asynccontextmanager
async def slow_handover(
    root: Path, relay: DatabaseRelay | None = None, *, slots: int = 1
) -> AsyncIterator[tuple[TwoHosts, asyncio.Event]]:
    """Two hosts; the second has taken 'two' from the first, whose post for it ends when the event is set.

    The first one holds 'two', and writes 'one' up to the gate 'one/1'. relay: what is between it and the database.
    slots: how many answers the second one writes at once.
    """
    url = CHOSEN.url(root)
    assert url is not None
    goes_on, in_flight = asyncio.Event(), asyncio.Event()
    async with (
        ScriptedPlatform() as platform,
        run_host(root, "first", platform, database_url=relay.url(url) if relay else url, ready=relay is None) as first,
    ):
        if relay:
            await platform.connected()
            await platform.until(lambda: bool(first.engine.loaded), "a model is loaded")
        platform.gates.hold("one/1")
        await channel_of(first.team, "one").says("ana", "one")
        await platform.gates.reached("one/1")
        post = first.adapter.post

        async def slow_post(reply: Reply) -> str:
            if reply.question_id == first.team.asked["two"]:
                in_flight.set()
                await goes_on.wait()
            return await post(reply)

        with patch.object(first.adapter, "post", slow_post):
            await channel_of(first.team, "two").says("ben", "two")
            await asyncio.wait_for(in_flight.wait(), 20)
            async with run_host(root, "second", platform, slots=slots, drain=60) as second:
                await platform.until(lambda: rows(root, TAKEN) == [(1,)], "'two' is taken")
                yield TwoHosts(first, second), goes_on


async def finished(hosts: TwoHosts, *questions: str) -> None:
    """Waits for the answers, which must have been written once and shown in one message each."""
    await hosts.platform.gates.open("one/1")
    for question in questions:
        assert (await channel_of(hosts.team, question).reply_to(question)).text == f"You said: {question}"
        assert len(hosts.posts(question)) == 1


@pytest.mark.fault(64)
async def test_a_host_that_does_not_hand_over_does_not_hold_up_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "HANDOVER_S", 0.5)
    async with slow_handover(tmp_path) as (hosts, goes_on):
        hosts.tells(hosts.second)
        await channel_of(hosts.team, "three").asks("cleo", "three")
        assert rows(tmp_path, TWO) == [("waiting", 0, 0), ("finished", 1, 0)]
        await asyncio.sleep(1.2)  # each host looks at least once
        goes_on.set()
        await finished(hosts, "one", "two")
        assert hosts.answered() == {"one": 1, "two": 1, "three": 1}


@pytest.mark.fault(67)
async def test_what_is_stopped_while_it_is_handed_over_is_not_answered(tmp_path: Path) -> None:
    async with slow_handover(tmp_path) as (hosts, goes_on):
        team = channel_of(hosts.tells(hosts.second), "two")
        assert await team.command("stop", who="ben") == Notice("Stopped.")
        goes_on.set()
        assert (await team.reply_to("two")).reason is FinishReason.ABORT
        assert hosts.answered() == {"one": 1}
        assert len(hosts.posts("two")) == 1


@pytest.mark.fault(67)
async def test_what_is_deleted_on_the_holder_while_it_is_handed_over_is_not_answered(tmp_path: Path) -> None:
    async with slow_handover(tmp_path) as (hosts, goes_on):
        team = channel_of(hosts.tells(hosts.first), "two")
        await team.deletes("two")
        goes_on.set()
        await team.asks("dan", "four")
        assert hosts.answered() == {"one": 1, "four": 1}


@pytest.mark.usefixtures("short_leases")
@pytest.mark.fault(63)
async def test_what_a_dying_host_was_handing_over_is_answered(
    tmp_path: Path, relay: DatabaseRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "MARGIN_S", 0.1)
    async with slow_handover(tmp_path, relay) as (hosts, _):
        hosts.tells(hosts.second)
        await relay.cut()
        await finished(hosts, "two")
        answer = await channel_of(hosts.team, "one").reply_to("one")
        assert answer.text == "You said: one"
        await relay.start()
        with pytest.raises(StorageError, match="has taken over"):
            await asyncio.wait_for(hosts.first.running, 20)
        assert len(hosts.posts("one")) == len(hosts.posts("two")) == 1


@pytest.mark.fault(63)
async def test_a_host_that_stops_gives_back_what_it_was_taking_without_a_mark(tmp_path: Path) -> None:
    async with slow_handover(tmp_path) as (hosts, goes_on):
        await hosts.second.stop()
        assert rows(tmp_path, TWO) == [("waiting", 0, 0)]
        goes_on.set()
        await finished(hosts, "one", "two")
        assert hosts.second.engine.asked == []


@pytest.mark.fault(63)
async def test_a_host_that_stops_hands_over_what_was_taken_from_it(tmp_path: Path) -> None:
    async with slow_handover(tmp_path) as (hosts, _):
        hosts.tells(hosts.second)
        hosts.first.service.stop()
        await finished(hosts, "one", "two")
        await hosts.first.stop()
        assert hosts.second.engine.questions() == ["two"]


@pytest.mark.fault(63)
async def test_a_host_that_stops_gives_away_at_once_what_waits_for_its_model(tmp_path: Path) -> None:
    async with (
        ScriptedPlatform() as platform,
        run_host(tmp_path, "first", platform, slots=2, drain=60) as first,
    ):
        platform.gates.hold("one/1")
        await channel_of(first.team, "one").says("ana", "one")
        await platform.gates.reached("one/1")
        team = channel_of(first.team, "two")
        await team.told("model", "large")
        await team.says("ben", "two")
        await platform.until(lambda: rows(tmp_path, TWO) == [("running", 1, 0)], "the model is to be switched")
        async with run_host(tmp_path, "second", platform) as second:
            hosts = TwoHosts(first, second)
            hosts.tells(second)
            first.service.stop()
            assert (await team.reply_to("two")).text == "You said: two"
            assert rows(tmp_path, TWO) == [("finished", 1, 0)]
            await finished(hosts, "one", "two")
            await first.stop()


@pytest.mark.fault(63)
async def test_what_is_handed_over_to_a_host_that_stops_goes_back_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_watch, "LOOK_S", 0.1)
    async with slow_handover(tmp_path, slots=2) as (hosts, goes_on):
        hosts.tells(hosts.second)
        hosts.platform.gates.hold("three/1")
        await channel_of(hosts.team, "three").says("cleo", "three")
        await hosts.platform.gates.reached("three/1")
        begins, looks, unfinished = asyncio.Event(), asyncio.Event(), Hosts.unfinished

        async def look_later(self: Hosts) -> list[Unfinished]:
            if self.this != holder:
                begins.set()
                await looks.wait()
            return await unfinished(self)

        ((holder,),) = rows(tmp_path, "SELECT host FROM requests ORDER BY id OFFSET 1 LIMIT 1")
        monkeypatch.setattr(Hosts, "unfinished", look_later)
        await asyncio.wait_for(begins.wait(), 20)
        goes_on.set()
        await hosts.platform.until(lambda: rows(tmp_path, TAKEN) == [(0,)], "'two' is handed over")
        hosts.second.service.stop()
        await hosts.platform.until(lambda: rows(tmp_path, WAITS) == [(1,)], "'two' waits again")
        looks.set()
        await finished(hosts, "one", "two")
        assert hosts.first.engine.questions() == ["one", "two"]
        await hosts.platform.gates.open("three/1")
        await hosts.second.stop()
