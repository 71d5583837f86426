"""What those who wait are told: a place and a time, how far a load has come, and at last that it took too long.

In: the queue and what the worker is doing. Out: a line for every waiting reply, once a second; an end for a request
that waited longer than it may.
"""

import asyncio
import time

from bot.models.current import Current
from bot.queue import Place, RequestQueue
from bot.replies import Replies
from bot.wording import loading_line, waiting_line
from bot.worker import Worker

TICK_S = 1.0


class Waiters:
    """Everybody who waits for an answer."""

    def __init__(self, current: Current, queue: RequestQueue, replies: Replies, worker: Worker) -> None:
        self._current, self._queue, self._replies, self._worker = current, queue, replies, worker

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

    def places(self) -> dict[str, Place]:
        """Everybody's place by request id, as it is now."""
        worker = self._worker
        slots = worker.loaded.max_running if worker.loaded else 1
        model = worker.loaded.name if worker.loaded else worker.loading.model if worker.loading else ""
        return self._queue.places(model, slots, worker.load_seconds)

    def _lines(self) -> dict[str, str]:
        """What to tell each of them now, by request id."""
        worker = self._worker
        lines = {request_id: waiting_line(place) for request_id, place in self.places().items()}
        if worker.loading is not None:
            taken = time.monotonic() - worker.loading.began
            line = loading_line(worker.loading.model, worker.loading.progress, taken, again=worker.loading.again)
            for request in (*self._queue.running(), *self._queue.waiting()):
                if request.model == worker.loading.model:
                    lines[request.request_id] = line
        return lines
