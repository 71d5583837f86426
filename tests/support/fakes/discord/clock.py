"""Time, ids and waiting for the fake Discord.

`Clock` is the wall clock plus an offset that tests advance; it makes Discord's snowflake ids, strictly increasing.
`Changes` wakes coroutines that wait for a state of the fake.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

DISCORD_EPOCH = 1420070400.0


class Clock:
    """Unix seconds of the fake Discord."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._last_id = 0

    def now(self) -> float:
        """Unix seconds, with the offset."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Advances the clock at once; deadlines, nonces and sessions age, without sleeping."""
        self._ahead += seconds

    def new_id(self) -> str:
        """The next snowflake, greater than all before."""
        fresh = int((self.now() - DISCORD_EPOCH) * 1000) << 22
        self._last_id = max(fresh, self._last_id + 1)
        return str(self._last_id)


def iso(seconds: float) -> str:
    """A time in Discord's ISO format."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


class Changes:
    """Wakes waiting coroutines at each change of state."""

    def __init__(self, picture: Callable[[], str]) -> None:
        self._picture = picture
        self._waiters: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Wakes all waiters."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def until(self, condition: Callable[[], object], timeout: float = 20.0) -> None:  # noqa: ASYNC109 -- reads well
        """Waits until `condition()` is true. Raises AssertionError with the fake's state after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"this did not become true within {timeout} s; there is:\n{self._picture()}")
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            await asyncio.wait([waiter], timeout=min(left, 0.1))
            self._waiters.discard(waiter)
