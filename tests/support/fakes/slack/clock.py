"""Time, ids and timestamps for the fake: what a test may turn forward, and what wakes when it does.

`Clock` is the wall clock plus what a test added to it. A ts is Slack's name of a message, unique and rising; ids begin
with the letter that Slack gives their kind. `Changes`, which wakes whoever waits for the fake, is the one of the fake
Discord.
"""

import asyncio
import secrets
import string
import time

from tests.support.fakes.discord.clock import Changes

__all__ = ["Changes", "Clock"]

_LETTERS = string.ascii_uppercase + string.digits


class Clock:
    """Unix seconds, as Slack sees them."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._last_ts = 0
        self._moved = asyncio.Event()

    def now(self) -> float:
        """Unix seconds, the time that was skipped included."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass at once: streams, statuses, tickets, triggers and redeliveries age by it; nobody sleeps."""
        self._ahead += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Sleep until so much time has passed on this clock, skipped time included."""
        end = self.now() + seconds
        while (left := end - self.now()) > 0:
            moved = self._moved
            try:
                async with asyncio.timeout(left):
                    await moved.wait()
            except TimeoutError:
                continue

    def new_ts(self) -> str:
        """The next timestamp; later ones are always greater."""
        self._last_ts = max(int(self.now() * 1_000_000), self._last_ts + 1)
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    def new_id(self, kind: str) -> str:
        """An id such as U07AB3C9XYZ; `kind` is its first letters."""
        return kind + "0" + "".join(secrets.choice(_LETTERS) for _ in range(9))
