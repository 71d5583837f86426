"""Retries of calls after the seconds that a platform names, and waits that end early when an adapter closes."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from itertools import count

import stamina
from stamina.instrumentation import set_on_retry_hooks

from bot.types.errors import RetryLater

log = logging.getLogger(__name__)

set_on_retry_hooks(())  # else stamina logs and counts each retry, beside our own log and metrics


async def retried(call: Callable[[], Awaitable[None]], tries: int) -> None:
    """Make a call up to `tries` times while it raises RetryLater, each time waiting longer. Raises AdapterError."""
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
    """Sleep, but not beyond the moment that `closing` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # wait_for can swallow a cancellation
            await closing.wait()
