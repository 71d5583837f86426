"""What those who wait are told: a place and a time, how far a load has come, and at last that it took too long.

In: the queue and what the worker is doing. Out: a line for every waiting reply, once a second; an end for a request
that waited longer than it may. What they may still wait is stored every 2 s, so that a crash gives no time back.
"""

import asyncio
import logging
import time

from bot.conversations.request_queue import Place, RequestQueue
from bot.generation.user_messages import loading_line, waiting_line
from bot.generation.worker import Worker
from bot.models.runtime_config import Current
from bot.replies.replies import Replies
from bot.storage import Storage
from bot.types.errors import StorageError

log = logging.getLogger(__name__)

TICK_S = 1.0
STORE_S = 2.0
"""How often the time that is left is stored."""


class Waiters:
    """Everybody who waits for an answer."""

    def __init__(
        self, current: Current, storage: Storage, queue: RequestQueue, replies: Replies, worker: Worker
    ) -> None:
        self._current, self._storage, self._queue = current, storage, queue
        self._replies, self._worker = replies, worker
        self._stored_at = time.monotonic()

    async def keep_told(self) -> None:
        """Tell them, for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            for request in self._queue.expired():
                deadline = self._current.settings.deadline
                waited = f"This waited longer than the {deadline:g} s that it may, so it was dropped."
                await self._worker.give_up(request, f"{waited} Please ask again.")
            for request_id, line in self._lines().items():
                if live := self._replies.get(request_id):
                    live.say(line)
            if time.monotonic() - self._stored_at >= STORE_S:
                await self._store()

    def places(self) -> dict[str, Place]:
        """Everybody's place by request id, as it is now."""
        loader = self._worker.loader
        model = loader.name or (loader.loading.model if loader.loading else "")
        return self._queue.places(model, loader.slots, loader.seconds)

    async def _store(self) -> None:
        self._stored_at = time.monotonic()
        if not (left := self._queue.seconds_left()):
            return
        try:
            await self._storage.inbox.still_waiting(left)
        except StorageError as error:  # what was stored before is too long, and no worse than that
            log.warning("How long people may still wait could not be stored: %s", error)

    def _lines(self) -> dict[str, str]:
        """What to tell each of them now, by request id."""
        loading = self._worker.loader.loading
        lines = {request_id: waiting_line(place) for request_id, place in self.places().items()}
        if loading is not None:
            line = loading_line(loading.model, loading.progress, time.monotonic() - loading.began, again=loading.again)
            for request in (*self._queue.running(), *self._queue.waiting()):
                if request.model == loading.model:
                    lines[request.request_id] = line
        return lines
