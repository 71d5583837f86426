"""The history is kept for so many days: what is older goes, at the start of the service and then once a day.

In: the settings. Out: a database without what is older than INHOUSE_RETENTION says. Promises: what is still owed stays;
an event that may come again is still known; nobody waits for the removal, which goes in small steps.
"""

import asyncio
import logging
import time

from bot.generation.user_messages import counted
from bot.models.runtime_config import Current
from bot.storage import Storage
from bot.types.errors import StorageError

log = logging.getLogger(__name__)

DAY_S = 86_400.0
LOOK_S = 60.0
"""How often is looked whether there is anything to do: a day is over, the setting was changed, a try failed."""

PAUSE_S = 0.05
"""The rest after each step, so that the disk has time for others."""


class Retention:
    """Removes what is too old. Run `keep` as a task."""

    def __init__(self, current: Current, storage: Storage) -> None:
        self._current, self._storage = current, storage
        self._done: tuple[int, float] | None = None  # for how many days of history, and when on the monotonic clock

    async def keep(self) -> None:
        """Remove what is too old, at once, every day, and when the setting changes, for ever."""
        while True:
            days = self._current.settings.retention
            try:
                if self._done is None or self._done[0] != days or time.monotonic() - self._done[1] >= DAY_S:
                    await self.clean()
                    self._done = days, time.monotonic()
                await self._storage.expiry.erase()
            except StorageError as error:
                log.error("What is to be removed could not be removed yet: %s", error)
            await asyncio.sleep(LOOK_S)

    async def clean(self) -> int:
        """Remove what is too old now; the number of rows. Raises StorageError."""
        settings, expiry = self._current.settings, self._storage.expiry
        if not settings.retention:
            return 0
        now, age = time.time(), settings.retention * DAY_S
        # An event can come again for as long as it may be read back; a day more is for clocks that differ.
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
            log.info("%s of more than %d days ago removed", counted(removed, "row"), settings.retention)
        return removed
