"""Time, ids and waiting for the fake: what a test may turn forward, and what it may wait for.

`Clock` is the wall clock plus what a test added to it; ids are Discord's snowflakes, made from it and strictly rising;
`Changes` wakes whoever waits for the fake's state to become something.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

DISCORD_EPOCH = 1420070400.0


class Clock:
    """Unix seconds, as Discord sees them."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._last_id = 0

    def now(self) -> float:
        """Unix seconds, the time that was skipped included."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass at once: deadlines, nonces and sessions age by it; nobody sleeps."""
        self._ahead += seconds

    def new_id(self) -> str:
        """The next snowflake; later ones are always greater."""
        fresh = int((self.now() - DISCORD_EPOCH) * 1000) << 22
        self._last_id = max(fresh, self._last_id + 1)
        return str(self._last_id)


def iso(seconds: float) -> str:
    """A time as Discord writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


class Changes:
    """Wakes the waiters whenever anything happened."""

    def __init__(self, picture: Callable[[], str]) -> None:
        self._picture = picture
        self._waiters: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Something changed."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:  # noqa: ASYNC109 -- reads well
        """Return once `condition()` is true; an AssertionError with a picture of the state after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"this did not become true within {timeout} s; there is:\n{self._picture()}")
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            await asyncio.wait([waiter], timeout=min(left, 0.1))
            self._waiters.discard(waiter)
