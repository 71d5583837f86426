"""Retries calls after the delay that the platform requests, or until the adapter closes."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from itertools import count

import stamina
from stamina.instrumentation import set_on_retry_hooks

from bot.types.errors import AdapterError, RetryLater, StorageError

log = logging.getLogger(__name__)

MAX_WAIT_S = 30.0
"""The longest wait between two calls of `retried_until_closed`, seconds."""

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


async def retried_until_closed(call: Callable[[], Awaitable[None]], closing: asyncio.Event) -> None:
    """Repeat a call while it raises StorageError or AdapterError, up to 30 s apart, until `closing` is set.

    Not stamina, whose waits do not end when the adapter closes.
    """
    wait = 1.0
    while not closing.is_set():
        try:
            await call()
            return
        except (StorageError, AdapterError) as error:
            log.warning("Missed messages cannot be read back yet: %s", error)
        await sleep_unless(closing, wait)
        wait = min(MAX_WAIT_S, wait * 2)


async def sleep_unless(closing: asyncio.Event, seconds: float) -> None:
    """Sleep for `seconds`, or until `closing` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # asyncio.wait_for can swallow a cancellation
            await closing.wait()
