"""Tests the backfill of messages that arrived during an outage: bounded, in order, without loss under faults."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bot.config.settings import Settings
from bot.conversations.backfill import TRIES
from bot.storage import Storage
from bot.types.errors import OutcomeUnknown, Rejected, RetryLater, StorageError
from bot.types.messages import IncomingMessage, Person
from tests.support.builders.backfill_channel import Channel, Listener

pytest_plugins = ["tests.support.fixtures.backfill"]

FULL = StorageError("The disk is full.")


async def test_what_was_said_meanwhile_is_handled_in_order_whatever_the_channel(listener: Listener) -> None:
    missed = [listener.channel.says(channel=number % 2) for number in range(6)]
    assert await listener.reads_back() == [event.message_id for event in missed]
    assert await listener.reads_back() == [event.message_id for event in missed]  # the inbox contains them already


async def test_a_user_without_a_place_delays_only_their_own_messages(listener: Listener) -> None:
    ben = Person("ben", "Ben")
    first, of_ben, second = (listener.channel.says(), listener.channel.says(author=ben), listener.channel.says())
    listener.full["ana"] = asyncio.Event()
    reading = asyncio.create_task(listener.reads_back())
    async with asyncio.timeout(20):
        await listener.waits.wait()
        assert listener.handled[-1] == of_ben.message_id
        assert not reading.done()
        listener.full["ana"].set()
        assert await reading == [of_ben.message_id, first.message_id, second.message_id]


async def test_a_storage_failure_ends_a_backfill_while_a_user_waits(listener: Listener) -> None:
    listener.channel.says()
    listener.full["ana"] = asyncio.Event()
    listener.channel.says(author=Person("ben", "Ben"))
    listener.errors.append(FULL)
    with pytest.raises(StorageError):
        await listener.reads_back()


async def test_after_a_restart_it_goes_on_where_it_was(listener: Listener) -> None:
    await listener.reads_back()
    listener.hears(listener.channel.says())
    await listener.backfill.save()
    missed = listener.channel.says()
    await listener.restarts()
    assert await listener.reads_back() == [missed.message_id]


async def test_what_a_dead_host_received_is_read_although_the_cursor_is_past_it(listener: Listener) -> None:
    await listener.reads_back()
    old, lost, heard = (listener.channel.says(ago=ago) for ago in (100, 40, 20))
    for event in (old, heard):  # the host that received `lost` died before it could store it
        listener.hears(event)
    await listener.backfill.save()
    assert await listener.reads_back() == []
    assert await listener.reads_again(time.time() - 60) == [lost.message_id, heard.message_id]
    assert await listener.reads_back() == []  # the cursor stays where it was


@pytest.mark.fault(10)
async def test_of_sixty_messages_fifty_are_read_and_of_old_ones_none(listener: Listener) -> None:
    missed = [listener.channel.says() for _ in range(60)]
    for _ in range(5):
        listener.channel.says(ago=3700, channel=1)
    assert await listener.reads_back() == [event.message_id for event in missed[:50]]


@pytest.mark.parametrize("settings", [Settings(catchup_messages=0), Settings(catchup_age=0)])
async def test_it_can_be_switched_off(listener: Listener, settings: Settings) -> None:
    listener.settings = settings
    await listener.restarts()
    listener.channel.says()
    assert await listener.reads_back() == []


async def test_a_channel_that_was_never_heard_is_not_read(listener: Listener) -> None:
    listener.channel.keys.append(Channel().keys[0])
    listener.channel.says(channel=2)
    assert await listener.reads_back() == []
    assert sorted(listener.channel.fetched, key=str)[-2:] == sorted(listener.channel.keys[:2], key=str)


async def test_what_comes_live_before_the_session_is_caught_up_with_hides_nothing(listener: Listener) -> None:
    missed = listener.channel.says()
    await listener.restarts()
    live = listener.channel.says()
    listener.hears(live)
    await listener.backfill.save()
    assert missed.message_id in await listener.reads_back()


async def test_what_comes_live_while_it_reads_back_hides_nothing_from_the_next_start(listener: Listener) -> None:
    missed = [listener.channel.says() for _ in range(3)]
    listener.meanwhile, listener.errors = [listener.channel.says()], [FULL]
    with pytest.raises(StorageError):
        await listener.reads_back()
    await listener.backfill.save()
    await listener.restarts()
    assert [event.message_id for event in missed] == (await listener.reads_back())[:3]


async def test_a_message_that_was_not_stored_is_read_back_although_later_ones_were(listener: Listener) -> None:
    failed, later = listener.channel.says(), listener.channel.says()
    listener.backfill.not_stored(failed)
    listener.hears(later)
    await listener.backfill.save()
    assert await listener.reads_back() == [failed.message_id, later.message_id]
    await listener.backfill.save()
    await listener.restarts()
    assert await listener.reads_back() == []


async def test_a_message_that_is_stored_in_the_end_holds_nothing_up(listener: Listener) -> None:
    failed, later = listener.channel.says(), listener.channel.says()
    listener.backfill.not_stored(failed)
    listener.hears(later)
    listener.hears(failed)
    await listener.backfill.save()
    await listener.restarts()
    assert await listener.reads_back() == []


async def test_a_message_that_was_neither_stored_nor_found_again_holds_nothing_up_after_the_next_session(
    listener: Listener,
) -> None:
    failed = listener.channel.says()
    listener.backfill.not_stored(failed)
    listener.channel.said.remove(failed)
    await listener.reads_back()
    later = listener.channel.says()
    listener.hears(later)
    await listener.backfill.save()
    await listener.restarts()
    assert later.message_id not in await listener.reads_back()


async def test_a_channel_that_was_first_heard_a_moment_ago_is_read_back_too(listener: Listener) -> None:
    listener.channel.keys += Channel().keys
    listener.hears(listener.channel.says(channel=2))
    missed = listener.channel.says(channel=2)
    assert await listener.reads_back() == [missed.message_id]


async def test_a_channel_that_must_wait_or_fails_once_is_read_and_one_that_is_gone_is_not(listener: Listener) -> None:
    here, gone = listener.channel.keys
    listener.channel.errors = {
        here: [RetryLater(0.01), RetryLater(0.01)],
        gone: [Rejected("You may not read here.")],
    }
    missed = [listener.channel.says(channel=number) for number in (0, 1)]
    assert await listener.reads_back() == [missed[0].message_id]


async def test_one_channel_that_cannot_be_read_costs_the_others_nothing(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(seconds: float) -> None:
        return

    monkeypatch.setattr("bot.conversations.backfill.asyncio.sleep", at_once)
    here, _ = listener.channel.keys
    missed = [listener.channel.says(channel=number) for number in (0, 1)]
    failures: list[list[Exception]] = [[OutcomeUnknown("no answer")] * TRIES, [KeyError("a bug of the adapter")]]
    for errors in failures:
        listener.channel.errors = {here: errors}
        assert await listener.reads_back() == [missed[1].message_id]


async def test_the_message_that_a_thread_starts_from_stands_in_the_channel(listener: Listener) -> None:
    (here, _), says = listener.channel.keys, listener.channel.says
    listener.hears(says(message_id="900000", key=replace(here, thread="900000")))
    await listener.backfill.save()
    says(message_id="900001", key=replace(here, thread="900001"))
    await listener.restarts()
    assert await listener.reads_back() == ["900001"]
    assert {key.thread for key in listener.channel.fetched} == {""}


async def test_a_session_that_ended_while_it_was_read_back_frees_no_cursor_of_the_next_one(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = listener.channel.fetch_since
    gates = [asyncio.Event(), asyncio.Event()]
    sessions = []
    for gate in gates:

        async def slowly(*args: Any, gate: asyncio.Event = gate) -> Sequence[IncomingMessage]:  # Any: its arguments
            found = await fetch(*args)
            await gate.wait()
            return found

        monkeypatch.setattr(listener.channel, "fetch_since", slowly)
        sessions.append(asyncio.create_task(listener.reads_back()))
        await asyncio.sleep(0.01)
        lost = listener.channel.says()
    gates[0].set()
    await sessions[0]
    listener.hears(listener.channel.says())
    await listener.backfill.save()
    monkeypatch.undo()
    await listener.restarts()
    assert lost.message_id in await listener.reads_back()
    gates[1].set()
    await sessions[1]


@dataclass(frozen=True)
class Session:
    """An outage, and the messages after it."""

    lost: int
    killed: bool
    live_before: int
    live_meanwhile: int
    fails: bool
    unstored: int
    live_after: int


NUMBER = st.integers(0, 3)


@hypothesis_settings(max_examples=60)
@given(
    sessions=st.lists(
        st.builds(Session, NUMBER, st.booleans(), NUMBER, NUMBER, st.booleans(), NUMBER, NUMBER), max_size=4
    )
)
def test_nothing_is_lost_whatever_happens(tmp_path_factory: pytest.TempPathFactory, sessions: list[Session]) -> None:
    asyncio.run(_plays(tmp_path_factory.mktemp("state"), sessions))


async def _plays(root: Path, sessions: list[Session]) -> None:
    storage = await Storage.open(root)
    listener = Listener(storage, Channel())
    await listener.restarts()
    await listener.reads_back()
    listener.hears(listener.channel.says())
    await listener.backfill.save()
    says = listener.channel.says
    for session in sessions:
        for _ in range(session.lost):
            says()
        if session.killed:
            await listener.restarts()
            for _ in range(session.live_before):
                listener.hears(says())
            await listener.backfill.save()
        listener.meanwhile = [says() for _ in range(session.live_meanwhile)]
        listener.errors = [FULL] if session.fails else []
        try:
            await listener.reads_back()
        except StorageError:
            if session.killed:
                await listener.restarts()
            await listener.reads_back()
        listener.errors.clear()
        for event in listener.meanwhile:  # not backfilled, so they are delivered live now
            listener.hears(event)
        for _ in range(session.unstored):
            listener.backfill.not_stored(says())
        for _ in range(session.live_after):
            listener.hears(says())
        await listener.backfill.save()
    await listener.restarts()
    await listener.reads_back()
    assert set(listener.handled) == {event.message_id for event in listener.channel.said}
    await storage.close()
