"""The pace of calls: what Slack allows is never exceeded, and what must be said goes before what only grows."""

import asyncio

import pytest

from adapters.slack.pace import FOR_GROWTH, SHARE, TIERS, Pace
from bot.errors import RetryLater

METHOD = "chat.update"


def taken(pace: Pace) -> int:
    """How many calls for growing text pass at once."""
    passed = 0
    while True:
        try:
            pace.growth(METHOD)
        except RetryLater:
            return passed
        passed += 1


async def test_posts_in_a_channel_are_a_second_apart_and_channels_do_not_wait_for_each_other() -> None:
    pace, clock = Pace(scale=0.1), asyncio.get_running_loop().time
    began = clock()
    await asyncio.gather(*(pace.turn("chat.postMessage", channel) for channel in "abc"))
    assert clock() - began < 0.1
    for _ in range(2):
        await pace.turn("chat.postMessage", "a")
    assert clock() - began >= 0.2


async def test_no_more_than_our_share_of_a_minute_is_used() -> None:
    pace = Pace()
    for _ in range(int(TIERS[METHOD] * SHARE)):
        await pace.turn(METHOD)
    assert not pace.has_room(METHOD)
    with pytest.raises(RetryLater) as refused:
        await pace.turn(METHOD)
    assert 50 < refused.value.seconds <= 60


async def test_growth_comes_evenly_and_leaves_room_for_what_must_be_said() -> None:
    pace = Pace(scale=0.05)
    assert taken(pace) == 1
    passed = 1
    end = asyncio.get_running_loop().time() + 60 * 0.05
    while asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.01)
        passed += taken(pace)
    assert passed <= TIERS[METHOD] * FOR_GROWTH + 1
    assert pace.has_room(METHOD)


async def test_a_refusal_is_kept_to_as_far_as_it_reaches() -> None:
    pace = Pace()
    pace.refused("chat.postMessage", "a", 40.0)
    with pytest.raises(RetryLater) as refused:
        await pace.turn("chat.postMessage", "a")
    assert refused.value.seconds > 39
    await pace.turn("chat.postMessage", "b")
    pace.refused(METHOD, "a", 40.0)  # the limit of the whole workspace
    with pytest.raises(RetryLater):
        await pace.turn(METHOD, "b")
