"""Tests stops and deletions that reach a host at the moment at which their request changes hands."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bot.generation import queue_status
from bot.hosts import host_watch
from bot.storage import Host, Inbox, Unfinished, postgresql
from bot.storage.history import History
from bot.storage.hosts import Hosts
from bot.types.errors import StorageError
from bot.types.messages import FinishReason, Notice
from tests.support.builders.databases import CHOSEN
from tests.support.builders.hosts import TwoHosts, ask_and_hold, channel_of, run_host, run_two_hosts
from tests.support.fakes.database_relay import DatabaseRelay
from tests.support.fakes.scripted_platform import ScriptedPlatform

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = [
    pytest.mark.usefixtures("each_database"),
    pytest.mark.parametrize("each_database", ["PostgreSQL"], indirect=True),
]


@pytest.fixture
async def hosts(each_database: None, tmp_path: Path) -> AsyncIterator[TwoHosts]:
    """Two hosts that write one answer at a time."""
    async with run_two_hosts(tmp_path) as hosts:
        yield hosts


@pytest.mark.usefixtures("short_leases")
@pytest.mark.fault(67)
async def test_what_is_stopped_or_deleted_before_another_host_takes_it_over_is_not_answered(
    tmp_path: Path, relay: DatabaseRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "MARGIN_S", 0.1)
    monkeypatch.setattr(queue_status, "TICK_S", 60.0)  # no place is shown
    url, stopped, take_over = CHOSEN.url(tmp_path), asyncio.Event(), Hosts.take_over
    assert url is not None

    async def take_over_later(self: Hosts, dead: Host) -> Any:  # Any: passed on
        return await take_over(self, dead) if stopped.is_set() else None

    monkeypatch.setattr(Hosts, "take_over", take_over_later)
    async with (
        ScriptedPlatform() as platform,
        run_host(tmp_path, "first", platform, database_url=relay.url(url), ready=False) as first,
    ):
        await platform.connected()
        team = channel_of(first.team, "one")
        platform.gates.hold("one/1")
        await team.says("ana", "one")
        await platform.gates.reached("one/1")
        await team.says("ben", "two")
        async with run_host(tmp_path, "second", platform) as second:
            await relay.cut()
            hosts = TwoHosts(first, second)
            hosts.tells(second)
            assert await team.command("stop", who="ana") == Notice("Stopped.")
            await team.deletes("two")
            stopped.set()
            await platform.gates.open("one/1")
            assert (await team.reply_to("one")).reason is FinishReason.ABORT
            await team.asks("cleo", "three")
            assert second.engine.questions() == ["three"]
            assert (len(hosts.posts("one")), hosts.posts("two")) == (1, [])
            await relay.start()
            with pytest.raises(StorageError, match="has taken over"):
                await asyncio.wait_for(first.running, 20)


@pytest.mark.fault(67)
async def test_a_question_that_is_deleted_before_anything_was_shown_gets_no_message(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_status, "TICK_S", 60.0)  # no place is shown
    hosts.tells(hosts.first)
    await ask_and_hold(hosts, "one", "two")
    team = channel_of(hosts.tells(hosts.first), "two")
    await team.says("cleo", "three")  # held by the second host, where its conversation is
    await team.deletes("three")
    await hosts.platform.gates.open("two/1")
    await team.reply_to("two")
    await team.asks("dan", "four")
    assert hosts.posts("three") == []


@pytest.mark.fault(65)
async def test_a_deleted_question_does_not_seem_lost_while_its_end_is_being_stored(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_status, "TICK_S", 60.0)  # no place is shown
    monkeypatch.setattr(host_watch, "LOOK_S", 0.1)
    begins, goes_on, looks = asyncio.Event(), asyncio.Event(), asyncio.Semaphore(0)
    finish, unfinished = Inbox.finish, Hosts.unfinished

    async def finish_later(*about: Any, **more: Any) -> None:  # Any: passed on
        begins.set()
        await goes_on.wait()
        await finish(*about, **more)

    async def count_look(self: Hosts) -> list[Unfinished]:
        looks.release()
        return await unfinished(self)

    hosts.tells(hosts.first)
    await ask_and_hold(hosts, "one")
    holder = next(host for host in (hosts.first, hosts.second) if host.engine.running_now() == {"one"})
    team, queue = channel_of(hosts.tells(holder), "one"), holder.live_state.queue
    await team.says("cleo", "two")
    monkeypatch.setattr(Inbox, "finish", finish_later)
    deleting = asyncio.create_task(team.deletes("two"))
    await asyncio.wait_for(begins.wait(), 20)
    monkeypatch.setattr(Hosts, "unfinished", count_look)
    async with asyncio.timeout(20):
        for _ in range(8):  # of two hosts
            await looks.acquire()
    assert queue.waiting() == []
    goes_on.set()
    await deleting
    await hosts.platform.gates.open("one/1")
    await team.reply_to("one")
    assert hosts.posts("two") == []


@pytest.mark.parametrize("what", ["", "all"])
@pytest.mark.fault(67)
async def test_an_answer_that_another_host_begins_while_its_question_is_forgotten_is_stopped(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    name = "forget" if what else "forget_author"
    team, forget = channel_of(hosts.team, "one"), getattr(History, name)

    async def forget_later(*about: Any, **more: Any) -> Any:  # Any: passed on
        hosts.tells(hosts.second)
        await team.says("root", "one")
        await hosts.platform.gates.reached("one/1")
        return await forget(*about, **more)

    monkeypatch.setattr(History, name, forget_later)
    hosts.platform.gates.hold("one/1")
    hosts.tells(hosts.first)
    assert await team.told("forget", what) == "Deleted 1 stored message of this conversation."
    assert (await team.reply_to("one")).reason is FinishReason.ABORT


@pytest.mark.fault(67)
async def test_a_stop_counts_where_the_holder_of_a_question_does_not_serve_its_platform(tmp_path: Path) -> None:
    async with (
        ScriptedPlatform() as platform,
        run_host(tmp_path, "first", platform, platform_name="another") as first,
        run_host(tmp_path, "second", platform) as second,
    ):
        hosts = TwoHosts(first, second)
        await hosts.acquainted(2)
        hosts.tells(second)
        await ask_and_hold(hosts, "one")
        team = channel_of(hosts.team, "two")
        await team.says("ben", "two")  # held by the first host, which is free
        assert await team.command("stop", who="ben") == Notice("Stopped.")
        await platform.gates.open("one/1")
        assert (await team.reply_to("two")).reason is FinishReason.ABORT
        assert hosts.answered() == {"one": 1}
