"""Turns that a test gives to a host and takes away."""

import asyncio
import math
from collections.abc import Sequence

from bot.platforms.turns import Always


class ScriptedTurns:
    """The turns of one host. `pauses` keeps the pauses of several hosts apart."""

    def __init__(self, *held: str, pauses: Always | None = None) -> None:
        self.held, self._pauses = set(held), pauses or Always()
        """The turns that the host holds."""
        self._changed = asyncio.Event()
        self.waiting: set[str] = set()
        """The turns that the host waits for."""
        self.may_send = True
        self.hosts = 0
        """The number of hosts; 0 if it is not known."""

    def give(self, *names: str) -> None:
        """Lets the host hold turns."""
        self.held.update(names)
        self._tell()

    def take(self, *names: str) -> None:
        """Takes turns away."""
        self.held.difference_update(names)
        self._tell()

    async def wait(self, name: str, among: Sequence[str] = ()) -> None:
        """Waits until the test has given the turn."""
        self.waiting.add(name)
        try:
            while name not in self.held:
                await self._changed.wait()
        finally:
            self.waiting.discard(name)

    async def wait_lost(self, name: str) -> None:
        """Waits until the test has taken the turn away."""
        while name in self.held:
            await self._changed.wait()

    async def release(self, name: str) -> None:
        """Gives the turn up."""
        self.held.discard(name)

    async def pause(self, name: str, seconds: float, at_most: float = math.inf) -> None:
        """Waits as long as a single process would."""
        await self._pauses.pause(name, seconds, at_most)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
