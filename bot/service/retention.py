"""Delete data older than INHOUSE_RETENTION, at the start of the service and then once a day, thoughts after a day, and
hosts that have been gone for a month.

Keeps unfinished requests, and the ids of events that a platform may deliver again. Deletes in small transactions, so
that other writers wait for one step at most.
"""

import asyncio
import logging
import time

from bot.generation.user_messages import counted
from bot.models.runtime_config import RuntimeConfig
from bot.storage import Storage
from bot.storage.outbox import THOUGHTS_S
from bot.types.errors import StorageError

log = logging.getLogger(__name__)

DAY_S = 86_400.0
LOOK_S = 60.0
"""Interval of the checks whether a clean-up is due: a day has passed, the setting changed, or one failed. Seconds."""

GONE_S = 30 * DAY_S
"""How long after its end a host is forgotten."""

PAUSE_S = 0.05
"""Pause after each step, seconds, so that other users of the disk make progress."""


class Retention:
    """The retention job. Run `keep` as a task."""

    def __init__(self, current: RuntimeConfig, storage: Storage) -> None:
        self._current, self._storage = current, storage
        self._done: tuple[int, float] | None = None  # retention in days and monotonic time of the last clean-up

    async def keep(self) -> None:
        """Clean up now, daily, and when the setting changes, until cancelled. Logs errors and retries."""
        while True:
            days = self._current.settings.retention
            try:
                if self._done is None or self._done[0] != days or time.monotonic() - self._done[1] >= DAY_S:
                    await self.clean()
                    await self._storage.hosts.forget(GONE_S)
                    self._done = days, time.monotonic()
                await self._storage.expiry.erase(anew=await self.forget_thoughts() > 0)
            except StorageError as error:
                log.error("Expired data could not be deleted yet: %s", error)
            await asyncio.sleep(LOOK_S)

    async def forget_thoughts(self) -> int:
        """Delete the thoughts that are older than THOUGHTS_S; return their number. Raises StorageError."""
        removed = 0
        while step := await self._storage.expiry.thoughts(time.time() - THOUGHTS_S):
            removed += step
            await asyncio.sleep(PAUSE_S)
        return removed

    async def clean(self) -> int:
        """Delete all expired rows now; return their number. Raises StorageError."""
        settings, expiry = self._current.settings, self._storage.expiry
        if not settings.retention:
            return 0
        now, age = time.time(), settings.retention * DAY_S
        # Backfill may read an event again for catchup_age; one more day allows for clock differences.
        seen = max(age, settings.catchup_age + DAY_S)
        removed = 0
        while step := await expiry.step(now - age, now - seen):
            removed += step
            await asyncio.sleep(PAUSE_S)
        if removed:
            more = True
            while more:
                more = await expiry.trim()
                await asyncio.sleep(PAUSE_S)
            await expiry.erase(anew=True)
            log.info("Deleted %s older than %d days", counted(removed, "row"), settings.retention)
        return removed
