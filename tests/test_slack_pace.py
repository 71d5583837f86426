"""Slack's limits kept from our side: what must be said waits its turn, what grows gives way."""

import asyncio
import time

import pytest

from adapters.slack.pace import LONGEST_S, TIERS, Pace
from bot.errors import RetryLater

SCALE = 0.001
"""A minute is 60 ms."""


async def test_posts_keep_their_distance_in_a_channel_and_others_do_not_wait() -> None:
    pace = Pace(scale=0.1)
    began = time.monotonic()
    await pace.turn("chat.postMessage", "A")
    await pace.turn("chat.postMessage", "B")
    assert time.monotonic() - began < 0.09
    await pace.turn("chat.postMessage", "A")
    assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize("method", sorted(TIERS))
async def test_no_minute_holds_more_calls_than_slack_allows(method: str) -> None:
    pace = Pace(scale=SCALE)
    made: list[float] = []
    while len(made) < TIERS[method] * 2:
        try:
            await pace.turn(method)
        except RetryLater as error:
            await asyncio.sleep(error.seconds)
            continue
        made.append(asyncio.get_running_loop().time())
    for at, first in enumerate(made):
        assert sum(first <= each < first + 0.9 * 60 * SCALE for each in made[at:]) <= TIERS[method]


async def test_what_grows_is_spread_over_the_minute_and_leaves_room_for_what_must_be_said() -> None:
    pace = Pace()
    pace.growth("chat.update")
    with pytest.raises(RetryLater) as refused:
        pace.growth("chat.update")
    assert 0 < refused.value.seconds < 60 / (TIERS["chat.update"] * 0.5)
    for _ in range(30):
        await asyncio.wait_for(pace.turn("chat.update"), 0.5)


async def test_a_turn_that_is_far_off_is_to_be_taken_later() -> None:
    pace = Pace()
    for _ in range(18):
        await pace.turn("chat.startStream")
    assert not pace.has_room("chat.startStream")
    with pytest.raises(RetryLater) as refused:
        await pace.turn("chat.startStream")
    assert LONGEST_S < refused.value.seconds <= 60


async def test_a_refusal_is_kept_to_by_all_whom_it_concerns() -> None:
    pace = Pace()
    pace.refused("chat.postMessage", "A", 30)
    pace.refused("chat.update", "A", 30)
    for method, channel in (("chat.postMessage", "A"), ("chat.update", "A"), ("chat.update", "B")):
        assert not pace.has_room(method, channel), "edits have one limit in the whole workspace"
        with pytest.raises(RetryLater):
            await pace.turn(method, channel)
        with pytest.raises(RetryLater):
            pace.growth("chat.update", channel)
    await pace.turn("chat.postMessage", "B")
    await pace.turn("chat.stopStream", "A")


async def test_a_refusal_ends() -> None:
    pace = Pace()
    pace.refused("chat.update", "A", 0.05)
    await asyncio.wait_for(pace.turn("chat.update", "A"), 5)
    assert pace.has_room("chat.update", "A")
