"""Points at which something waits until the test lets it go on: the pace of an answer, a load, a platform's call.

In: the name of a point. Out: nothing passes a point that is held, and the test can wait until somebody stands there.
"""

import asyncio
from collections import Counter


class Gates:
    """All points are open until they are held."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._standing: Counter[str] = Counter()
        self._moved = asyncio.Condition()

    def hold(self, point: str) -> None:
        """Let nobody pass from now on."""
        self._held.add(point)

    async def open(self, point: str) -> None:
        """Let those pass who stand here, and those who come."""
        self._held.discard(point)
        async with self._moved:
            self._moved.notify_all()

    async def reached(self, point: str, times: int = 1) -> None:
        """Wait until so many stand here."""
        async with asyncio.timeout(20), self._moved:
            await self._moved.wait_for(lambda: self._standing[point] >= times)

    async def passing(self, point: str) -> None:
        """Go through, or stand here until it is open."""
        if point not in self._held:
            return
        async with self._moved:
            self._standing[point] += 1
            self._moved.notify_all()
            try:
                await self._moved.wait_for(lambda: point not in self._held)
            finally:
                self._standing[point] -= 1
