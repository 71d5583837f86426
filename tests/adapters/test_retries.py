"""Tests retries after the delay that a platform names, and retries and sleeps that close() ends."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import prometheus_client
import pytest

from adapters.retries import retried, retried_until_closed, sleep_unless
from bot.types.errors import AdapterError, Gone, RetryLater, StorageError


def failing(*errors: AdapterError | StorageError) -> tuple[Callable[[], "asyncio.Future[None]"], list[float]]:
    """A call that raises these errors before it succeeds, and the times at which it is made."""
    loop, left, times = asyncio.get_running_loop(), list(errors), list[float]()

    def call() -> "asyncio.Future[None]":
        times.append(loop.time())
        made: asyncio.Future[None] = loop.create_future()
        if left:
            made.set_exception(left.pop(0))
        else:
            made.set_result(None)
        return made

    return call, times


async def test_a_call_is_repeated_after_what_the_platform_says_and_longer_each_time() -> None:
    call, times = failing(*(RetryLater(0.1) for _ in range(3)))
    await retried(call, 5)
    gaps = [after - before for before, after in pairwise(times)]
    assert len(gaps) == 3
    assert all(gap >= 0.1 * number for number, gap in enumerate(gaps, 1)), gaps


async def test_the_last_error_is_raised_when_the_tries_are_used_up() -> None:
    call, times = failing(*(RetryLater(0.001 * number) for number in range(1, 9)))
    with pytest.raises(RetryLater) as raised:
        await retried(call, 3)
    assert (len(times), raised.value.seconds) == (3, 0.003)


async def test_other_errors_are_raised_at_once() -> None:
    call, times = failing(Gone("It was deleted."))
    with pytest.raises(Gone):
        await retried(call, 3)
    assert len(times) == 1


async def test_a_cancellation_ends_the_wait_between_two_tries() -> None:
    call, times = failing(RetryLater(3600))
    task = asyncio.create_task(retried(call, 3))
    while not times:  # noqa: ASYNC110 -- no event
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(times) == 1


async def test_retries_add_no_metrics_or_logs_of_the_library(capfd: pytest.CaptureFixture[str]) -> None:
    call, _ = failing(RetryLater(0.001))
    await retried(call, 3)
    assert not [each.name for each in prometheus_client.REGISTRY.collect() if "stamina" in each.name]
    assert "stamina" not in "".join(capfd.readouterr())


async def test_a_call_is_repeated_until_it_succeeds_or_the_adapter_closes() -> None:
    call, times = failing(StorageError("The disk is full."))
    await retried_until_closed(call, asyncio.Event())
    assert len(times) == 2

    closing = asyncio.Event()
    call, times = failing(*(RetryLater(0.001) for _ in range(9)))
    repeating = asyncio.create_task(retried_until_closed(call, closing))
    await asyncio.sleep(0)
    closing.set()
    async with asyncio.timeout(0.9):  # the first wait takes a second
        await repeating
    assert len(times) == 1


async def test_a_sleep_ends_when_the_adapter_closes() -> None:
    closing = asyncio.Event()
    await sleep_unless(closing, 0.001)
    sleep = asyncio.create_task(sleep_unless(closing, 3600))
    closing.set()
    async with asyncio.timeout(5):
        await sleep
