"""Discord's limit for all requests of a bot together, kept from our side.

It is the one that discord.py only learns of by being refused, and such a refusal stops every channel at once. What
leaves here evenly may arrive in a bunch, so this stays well below the 50 requests a second that are allowed.
"""

import asyncio

BURST = 15
"""Requests that may leave at once."""
A_SECOND = 30.0
"""Requests a second that may leave for long."""


class Throttle:
    """Lets requests pass, in the order in which they come."""

    def __init__(self) -> None:
        self._left, self._counted_at = float(BURST), 0.0
        self._turn = asyncio.Lock()

    async def passing(self) -> None:
        """Wait until one more may pass."""
        async with self._turn:
            self._count()
            if self._left < 1:
                await asyncio.sleep((1 - self._left) / A_SECOND)
                self._count()
            self._left -= 1

    def _count(self) -> None:
        now = asyncio.get_running_loop().time()
        self._left = min(float(BURST), self._left + (now - self._counted_at) * A_SECOND)
        self._counted_at = now
