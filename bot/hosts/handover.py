"""Hands requests from the host that holds them to the one that writes their answers.

The holder stops showing a request once its call in flight has ended, so never two hosts write to the same message.
"""

import asyncio
import logging
import time
from collections.abc import Set

from bot.conversations.request_queue import RequestQueue
from bot.replies.replies import Replies
from bot.storage import Storage, Unfinished
from bot.types.errors import StorageError
from bot.types.messages import GenerationRequest

log = logging.getLogger(__name__)

HANDOVER_S = 5.0
"""How long a request is waited for that another host holds, seconds: a call in flight may wait for a rate limit."""
AVOIDED_S = 15.0
"""How long a request is left alone that was not handed over, seconds."""
LATE_S = 2.0
"""A host whose lease was not renewed for so long after it should have been is asked for nothing, seconds."""
AGAIN_S = 0.1
"""Pause after a request that could not be taken, seconds."""


class Handover:
    """Takes requests of this host and of others, and gives those away that others took. `platforms`: served here."""

    def __init__(self, storage: Storage, queue: RequestQueue, replies: Replies, platforms: frozenset[str]) -> None:
        self._inbox, self._hosts = storage.inbox, storage.hosts
        self._queue, self._replies, self._platforms = queue, replies, platforms
        self._expected: dict[str, asyncio.Event] = {}  # by request id; set once this host holds it
        self._avoided: dict[str, float] = {}  # until when, by request id; monotonic
        self.late: Set[str] = frozenset()
        """Hosts that may be dead."""
        self._giving: dict[str, asyncio.Task[None]] = {}  # by request id
        queue.may_take = self._may_take

    async def take(self, request: GenerationRequest) -> GenerationRequest | None:
        """Take a STARTING request; None if it cannot be taken now, and waits again. Raises StorageError."""
        request_id, holder = request.request_id, self._queue.host_of(request.request_id)
        try:
            taken = await self._inbox.start(request_id)
        except StorageError:
            if holder:
                await asyncio.sleep(AGAIN_S)
                self._queue.put_back(request_id)
            raise
        if not self._hosts.this:  # nobody else can have taken it
            return request
        if not taken:
            self._queue.put_back(request_id)
            await asyncio.sleep(AGAIN_S)  # what this host knows of the others is older than the database
            return None
        return await self._receive(request_id, holder) if holder else request

    async def _receive(self, request_id: str, holder: str) -> GenerationRequest | None:
        expected = self._expected[request_id] = asyncio.Event()
        try:
            try:
                async with asyncio.timeout(HANDOVER_S):
                    await expected.wait()
            except TimeoutError:
                if await self._hosts.withdraw(request_id):
                    log.info("The host %s has not handed a request over within %.0f s.", holder, HANDOVER_S)
                    self._avoided[request_id] = time.monotonic() + AVOIDED_S
                    self._queue.put_back(request_id)
                    return None
                async with asyncio.timeout(HANDOVER_S):  # handed over at the last moment, or ended
                    await expected.wait()
        except TimeoutError:
            self._queue.put_back(request_id)
            return None
        finally:
            del self._expected[request_id]
        request = self._queue.hold(request_id)
        if request is not None:
            self._replies.open(request, recall=True)
        return request

    def received(self, row: Unfinished) -> None:
        """Note that this host holds a request: one that it took, or a new one that another host gave it."""
        request = row.request
        if (expected := self._expected.get(request.request_id)) is not None:
            expected.set()
        elif (
            not row.running and request.key.platform in self._platforms and not self._queue.was_here(request.request_id)
        ):
            self._queue.put(request)

    def give(self, request: GenerationRequest, taker: str) -> None:
        """Hand a request over that another host took, in the background."""
        request_id = request.request_id
        if request_id in self._giving:
            return
        known = self._queue.status(request_id) is not None
        if known and not self._queue.lend(request_id, taker):
            return  # it is being started here, which the database will refuse
        if known or request.key.platform not in self._platforms:
            task = asyncio.create_task(self._give(request_id, taker), name=f"handover {request_id}")
            self._giving[request_id] = task
            task.add_done_callback(lambda _: self._giving.pop(request_id, None))

    async def _give(self, request_id: str, taker: str) -> None:
        await self._replies.release(request_id)
        try:
            if await self._hosts.hand_over(request_id, taker):
                return
        except StorageError as error:
            log.error("A request could not be handed over: %s", error)
        request = self._queue.hold(request_id)
        if request is not None:
            self._replies.open(request, recall=True)

    def _may_take(self, request: GenerationRequest, host: str) -> bool:
        if request.key.platform not in self._platforms or host in self.late:
            return False
        if request.request_id not in self._avoided:
            return True
        now = time.monotonic()
        self._avoided = {request_id: until for request_id, until in self._avoided.items() if until > now}
        return request.request_id not in self._avoided
