"""Retries calls after the delay that the platform requests, and sleeps that end early when the adapter closes."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from itertools import count

import stamina
from stamina.instrumentation import set_on_retry_hooks

from bot.types.errors import RetryLater

log = logging.getLogger(__name__)

set_on_retry_hooks(())  # disable stamina's own logging and metrics of retries


async def retried(call: Callable[[], Awaitable[None]], tries: int) -> None:
    """Make up to `tries` calls while they raise RetryLater; wait n times the requested delay. Raises AdapterError."""
    number = count(1)

    def backoff(error: Exception) -> float | bool:
        if not isinstance(error, RetryLater):
            return False
        log.info("A call has to be repeated: %s", error)
        return error.seconds * next(number)

    async for attempt in stamina.retry_context(on=backoff, attempts=tries, timeout=None):
        with attempt:
            await call()


async def sleep_unless(closing: asyncio.Event, seconds: float) -> None:
    """Sleep for `seconds`, or until `closing` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # asyncio.wait_for can swallow a cancellation
            await closing.wait()
