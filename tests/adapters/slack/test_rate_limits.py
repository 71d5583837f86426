"""Tests our own rate limits for Slack: final texts wait for a slot, partial ones leave room for them."""

import asyncio
import time

import pytest

from adapters.slack.outbound.rate_limits import MAX_WAIT_S, TIERS, RateLimits
from bot.types.errors import NotSent

SCALE = 0.001
"""One minute takes 60 ms."""


async def test_posts_keep_their_distance_in_a_channel_and_others_do_not_wait() -> None:
    rate_limits = RateLimits(scale=0.1)
    began = time.monotonic()
    await rate_limits.acquire("chat.postMessage", "A")
    await rate_limits.acquire("chat.postMessage", "B")
    assert time.monotonic() - began < 0.09
    await rate_limits.acquire("chat.postMessage", "A")
    assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize("method", sorted(TIERS))
async def test_no_minute_holds_more_calls_than_slack_allows(method: str) -> None:
    rate_limits = RateLimits(scale=SCALE)
    made: list[float] = []
    while len(made) < TIERS[method] * 2:
        try:
            await rate_limits.acquire(method)
        except NotSent as error:
            await asyncio.sleep(error.seconds)
            continue
        made.append(asyncio.get_running_loop().time())
    for at, first in enumerate(made):
        assert sum(first <= each < first + 0.9 * 60 * SCALE for each in made[at:]) <= TIERS[method]


async def test_what_grows_is_spread_over_the_minute_and_leaves_room_for_what_must_be_said() -> None:
    rate_limits = RateLimits()
    rate_limits.try_progress("chat.update")
    with pytest.raises(NotSent) as refused:
        rate_limits.try_progress("chat.update")
    assert 0 < refused.value.seconds < 60 / (TIERS["chat.update"] * 0.5)
    for _ in range(30):
        await asyncio.wait_for(rate_limits.acquire("chat.update"), 0.5)


async def test_a_turn_that_is_far_off_is_to_be_taken_later() -> None:
    rate_limits = RateLimits()
    for _ in range(18):
        await rate_limits.acquire("chat.startStream")
    assert not rate_limits.available("chat.startStream")
    with pytest.raises(NotSent) as refused:
        await rate_limits.acquire("chat.startStream")
    assert MAX_WAIT_S < refused.value.seconds <= 60


async def test_a_refusal_is_kept_to_by_all_whom_it_concerns() -> None:
    rate_limits = RateLimits()
    rate_limits.block("chat.postMessage", "A", 30)
    rate_limits.block("chat.update", "A", 30)
    for method, channel in (("chat.postMessage", "A"), ("chat.update", "A"), ("chat.update", "B")):
        assert not rate_limits.available(method, channel), "edits have one limit in the whole workspace"
        with pytest.raises(NotSent):
            await rate_limits.acquire(method, channel)
        with pytest.raises(NotSent):
            rate_limits.try_progress("chat.update", channel)
    await rate_limits.acquire("chat.postMessage", "B")
    await rate_limits.acquire("chat.stopStream", "A")


async def test_a_refusal_ends() -> None:
    rate_limits = RateLimits()
    rate_limits.block("chat.update", "A", 0.05)
    await asyncio.wait_for(rate_limits.acquire("chat.update", "A"), 5)
    assert rate_limits.available("chat.update", "A")
