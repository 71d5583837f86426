"""Time, ids and timestamps for the fake Slack.

`Clock` is the wall clock plus an offset that tests advance. A ts identifies a message in a channel, unique and
increasing; ids begin with Slack's letter for their kind. `Changes` is the fake Discord's.
"""

import asyncio
import secrets
import string
import time

from tests.support.fakes.discord.clock import Changes

__all__ = ["Changes", "Clock"]

_LETTERS = string.ascii_uppercase + string.digits


class Clock:
    """Unix seconds of the fake Slack."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._last_ts = 0
        self._moved = asyncio.Event()

    def now(self) -> float:
        """Unix seconds, with the offset."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Advances the clock at once; streams, statuses, tickets, triggers and redeliveries age, without sleeping."""
        self._ahead += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Sleeps until `seconds` have passed on this clock, advances included."""
        end = self.now() + seconds
        while (left := end - self.now()) > 0:
            moved = self._moved
            try:
                async with asyncio.timeout(left):
                    await moved.wait()
            except TimeoutError:
                continue

    def new_ts(self) -> str:
        """The next timestamp, greater than all before."""
        self._last_ts = max(int(self.now() * 1_000_000), self._last_ts + 1)
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    def new_id(self, kind: str) -> str:
        """An id such as U07AB3C9XYZ; `kind` is its first letters."""
        return kind + "0" + "".join(secrets.choice(_LETTERS) for _ in range(9))
