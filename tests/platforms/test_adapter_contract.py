"""Tests the contract of `bot.platforms.adapter.Adapter` with the same cases for every adapter."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from bot.types.errors import Gone, OutcomeUnknown, Rejected
from bot.types.messages import IncomingMessage
from tests.support.builders.contract_adapters import ADAPTERS, Place


@pytest_asyncio.fixture(params=ADAPTERS)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A channel of each platform in turn."""
    async with ADAPTERS[request.param]() as opened:
        yield opened


async def heard(place: Place, number: int) -> list[IncomingMessage]:
    """Waits until the adapter has forwarded `number` messages; all of them."""
    async with asyncio.timeout(10):
        while len(events := [event for event in place.core.events if isinstance(event, IncomingMessage)]) < number:
            place.core.heard.clear()
            await place.core.heard.wait()
    return events


async def test_messages_are_handed_over_once_each_in_order_with_their_author(place: Place) -> None:
    second = await place.asks("and this?")
    first, other = await heard(place, 2)
    assert (first.message_id, first.key, first.text) == (place.reply.question_id, place.reply.key, "hello")
    assert (other.message_id, other.addressed, other.text) == (second, True, "and this?")
    assert first.sent_at < other.sent_at
    assert first.author.id == place.reply.asker.id


async def test_a_reply_is_one_message_that_changes(place: Place) -> None:
    assert await place.adapter.find_posted(place.reply) is None
    platform_id = await place.adapter.post(replace(place.reply, tail="He"))
    assert [text.startswith("He") for text in place.shown()] == [True]
    final = replace(place.reply, platform_id=platform_id, committed="Hello you", final=True)
    await place.adapter.update(replace(final, committed="Hello", tail=" y", final=False))
    await place.adapter.update(final)
    assert place.shown() == ["Hello you"]
    assert await place.adapter.find_posted(place.reply) == platform_id


async def test_a_post_whose_answer_is_lost_is_unknown_and_can_be_found(place: Place) -> None:
    place.loses_the_answer()
    with pytest.raises(OutcomeUnknown):
        await place.adapter.post(replace(place.reply, committed="Hello"))
    assert place.shown() == ["Hello"]
    assert await place.adapter.find_posted(place.reply) is not None


async def test_what_may_not_be_posted_is_rejected(place: Place) -> None:
    place.refuses_posts()
    with pytest.raises(Rejected):
        await place.adapter.post(replace(place.reply, committed="Hello"))
    assert place.shown() == []


async def test_a_message_that_was_taken_away_is_gone(place: Place) -> None:
    platform_id = await place.adapter.post(replace(place.reply, committed="Hello"))
    await place.takes_away()
    with pytest.raises(Gone):
        await place.adapter.update(replace(place.reply, platform_id=platform_id, committed="Hello you", final=True))


async def test_what_was_said_since_is_read_back_oldest_first_and_not_more_than_asked_for(place: Place) -> None:
    later = [await place.asks(f"question {number}") for number in range(4)]
    await heard(place, 5)
    found = await place.adapter.fetch_since(place.reply.key, place.reply.question_id, 3)
    assert [event.message_id for event in found] == later[:3]
    assert all(event.addressed and event.text.startswith("question") for event in found)
    assert await place.adapter.fetch_since(place.reply.key, later[-1], 3) == []


async def test_a_heartbeat_leaves_no_message(place: Place) -> None:
    await place.adapter.status(place.reply.key, "")
    await place.adapter.status(place.reply.key, "2nd in line")
    assert place.shown() == []


async def test_it_ends_when_it_is_closed(place: Place) -> None:
    assert not place.running.done()
    await place.adapter.close()
    async with asyncio.timeout(10):
        await place.running


async def test_its_limits_leave_room_for_text(place: Place) -> None:
    assert place.adapter.limits.max_chars >= 100 + len(place.adapter.limits.cursor)
    assert place.adapter.limits.min_interval_s >= 0
