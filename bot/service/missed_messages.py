"""Reads back what a dead host may have received and not stored, on platforms where each host has a connection.

The cursors of other hosts may be past such a message, and Slack delivers one again three times only, perhaps to the
same host.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection

from bot.types.errors import StorageError

log = logging.getLogger(__name__)

UNSTORED_S = 30.0
"""How long before its last renewal a dead host may have begun to store no messages, seconds."""
PAUSES_S = (0.0, 20.0, 75.0)
"""How long after a death was noticed to read, seconds: the platform may deliver to a host for a while after it died."""
RETRY_S = 2.0

ReadAgain = Callable[[str, float], Awaitable[None]]
"""Handles the messages of a platform since a Unix time. Raises StorageError."""


class MissedMessages:
    """Reads back on `platforms`, one reading at a time on each. `tasks` end by themselves, and may be cancelled.

    A reading asks for every channel, which takes minutes in a large workspace: what is due meanwhile is one more.
    """

    def __init__(self, platforms: Collection[str], read_again: ReadAgain) -> None:
        self._read_again = read_again
        self._due: dict[str, list[tuple[float, float]]] = {platform: [] for platform in platforms}
        self._reading: dict[str, asyncio.Task[None]] = {}

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The tasks that read, or wait for it."""
        return [task for task in self._reading.values() if not task.done()]

    def read_later(self, since: float) -> None:
        """Read back, in the background, for a host that renewed its lease last at this Unix time."""
        now = time.monotonic()
        for platform, due in self._due.items():
            due += [(now + pause, since - UNSTORED_S) for pause in PAUSES_S]
            if platform not in self._reading or self._reading[platform].done():
                task = asyncio.create_task(self._read(platform, due), name=f"missed messages of {platform}")
                self._reading[platform] = task

    async def _read(self, platform: str, due: list[tuple[float, float]]) -> None:
        """due: when to read, on the monotonic clock, and since when."""
        while due:
            now = time.monotonic()
            if (pause := min(due)[0] - now) > 0:
                await asyncio.sleep(pause)
                continue
            since = min(since for at, since in due if at <= now)
            due[:] = [each for each in due if each[0] > now]
            try:
                await self._read_again(platform, since)
            except StorageError as error:
                log.warning("What a dead host has not stored is read back later: %s", error)
                due.append((time.monotonic() + RETRY_S, since))
            except Exception:  # a bug must not keep later readings away
                log.exception("What a dead host has not stored could not be read back")
