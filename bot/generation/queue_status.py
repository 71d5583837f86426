"""Shows waiting users their queue position and load progress once a second, and ends requests that waited too long.

Persists the remaining waiting time every 2 s, so that a crash does not extend it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from bot.conversations.queue_entries import WAITING, Place
from bot.conversations.request_queue import RequestQueue
from bot.generation.user_messages import loading_line, waiting_line
from bot.generation.worker import Worker
from bot.models.runtime_config import RuntimeConfig
from bot.replies.replies import Replies
from bot.storage import Storage
from bot.types.errors import StorageError
from bot.types.messages import RequestStatus

log = logging.getLogger(__name__)

TICK_S = 1.0
STEP = 100
"""Queue positions that are computed before the event loop gets its turn, about 1 ms."""
WAKES = 10
"""Status lines that are set before the event loop gets its turn: each wakes a delivery, about 0.2 ms of work."""
UNREAD = WAITING | {RequestStatus.STARTING}
"""Statuses of requests that the engine has not got yet."""
STORE_S = 2.0
"""Interval at which the remaining waiting times are stored."""


class QueueStatus:
    """Reports the queue status to all waiting requests."""

    def __init__(
        self,
        current: RuntimeConfig,
        storage: Storage,
        queue: RequestQueue,
        replies: Replies,
        worker: Worker,
        slots: Callable[[], int],
    ) -> None:
        """slots: how many answers all hosts write at once."""
        self._current, self._storage, self._queue, self._slots = current, storage, queue, slots
        self._replies, self._worker = replies, worker
        self._stored_at = time.monotonic()

    async def keep_updated(self) -> None:
        """Update the status lines; runs until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            for request in self._queue.expired():
                deadline = self._current.settings.deadline
                waited = f"This waited longer than the {deadline:g} s that it may, so it was dropped."
                await self._worker.end_with_error(request, f"{waited} Please ask again.")
            for number, (request_id, line) in enumerate((await self._lines()).items()):
                if number % WAKES == 0:
                    await asyncio.sleep(0)
                if self._queue.status(request_id) in UNREAD and (live := self._replies.get(request_id)):
                    live.set_status(line)
            if time.monotonic() - self._stored_at >= STORE_S:
                await self._store()

    def places(self) -> Iterator[tuple[str, Place]]:
        """Yield request ids and queue positions in order of service."""
        loader = self._worker.loader
        model = loader.name or (loader.loading.model if loader.loading else "")
        return self._queue.iter_places(model, self._slots(), loader.seconds, loader.seconds_left)

    async def _store(self) -> None:
        self._stored_at = time.monotonic()
        if not (left := self._queue.seconds_left()):
            return
        try:
            await self._storage.inbox.still_waiting(left)
        except StorageError as error:  # the stored times stay too long; no other harm
            log.warning("How long people may still wait could not be stored: %s", error)

    async def _lines(self) -> dict[str, str]:
        """Current status line of each request that waits, by request id."""
        lines: dict[str, str] = {}
        for request_id, place in self.places():
            lines[request_id] = waiting_line(place)
            if len(lines) % STEP == 0:
                await asyncio.sleep(0)
        loading = self._worker.loader.loading
        if loading is not None:
            line = loading_line(loading.model, loading.progress, time.monotonic() - loading.began, again=loading.again)
            for request in (*self._queue.running(), *self._queue.waiting()):
                if request.model == loading.model:
                    lines[request.request_id] = line
        return lines
