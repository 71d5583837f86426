"""Reads back what a dead host may have received and not stored, on platforms where each host has a connection.

The cursors of other hosts may be past such a message, and Slack delivers one again three times only, perhaps to the
same host.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from bot.types.errors import StorageError

log = logging.getLogger(__name__)

UNSTORED_S = 30.0
"""How long before its last renewal a dead host may have begun to store no messages, seconds."""
PAUSES_S = (0.0, 75.0)
"""Pauses before the two readings, seconds: the platform may deliver to a host for a while after it died."""
RETRY_S = 2.0

ReadAgain = Callable[[str, float], Awaitable[None]]
"""Handles the messages of a platform since a Unix time. Raises StorageError."""


class MissedMessages:
    """Reads back on `platforms`. `tasks` end by themselves, and may be cancelled."""

    def __init__(self, platforms: Collection[str], read_again: ReadAgain) -> None:
        self._platforms, self._read_again = platforms, read_again
        self.tasks: set[asyncio.Task[None]] = set()

    def read_later(self, since: float) -> None:
        """Read back, in the background, for a host that renewed its lease last at this Unix time."""
        for platform in self._platforms:
            task = asyncio.create_task(self._read(platform, since - UNSTORED_S), name=f"missed messages of {platform}")
            self.tasks.add(task)
            task.add_done_callback(self._ended)

    async def _read(self, platform: str, since: float) -> None:
        for pause in PAUSES_S:
            await asyncio.sleep(pause)
            while True:
                try:
                    await self._read_again(platform, since)
                    break
                except StorageError as error:
                    log.warning("What a dead host has not stored is read back later: %s", error)
                    await asyncio.sleep(RETRY_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("What a dead host has not stored could not be read back", exc_info=error)
