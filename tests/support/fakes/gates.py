"""Named gates at which code waits until the test opens them: words of an answer, loads, platform calls.

A test holds a gate, waits until code has reached it, and opens it.
"""

import asyncio
from collections import Counter


class Gates:
    """All gates; each is open until held."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._standing: Counter[str] = Counter()
        self._moved = asyncio.Condition()

    def hold(self, point: str) -> None:
        """Closes a gate from now on."""
        self._held.add(point)

    async def open(self, point: str) -> None:
        """Opens a gate and wakes those that wait at it."""
        self._held.discard(point)
        async with self._moved:
            self._moved.notify_all()

    async def reached(self, point: str, times: int = 1) -> None:
        """Waits until `times` coroutines wait at a gate."""
        async with asyncio.timeout(20), self._moved:
            await self._moved.wait_for(lambda: self._standing[point] >= times)

    async def passing(self, point: str) -> None:
        """Passes a gate, or waits until it is open."""
        if point not in self._held:
            return
        async with self._moved:
            self._standing[point] += 1
            self._moved.notify_all()
            try:
                await self._moved.wait_for(lambda: point not in self._held)
            finally:
                self._standing[point] -= 1
