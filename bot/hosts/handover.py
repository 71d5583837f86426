"""Hands requests from the host that holds them to the one that writes their answers.

The holder stops showing a request once its call in flight has ended, so never two hosts write to the same message.
"""

import asyncio
import logging
import time

from bot.conversations.request_queue import RequestQueue
from bot.replies.replies import Replies
from bot.storage import Storage
from bot.types.errors import StorageError
from bot.types.messages import GenerationRequest

log = logging.getLogger(__name__)

HANDOVER_S = 2.0
"""How long a request is waited for that another host holds, seconds."""
SILENT_S = 15.0
"""How long no request is asked of a host that did not hand one over, seconds: it may have died."""
AGAIN_S = 0.1
"""Pause after a request that could not be taken, seconds."""


class Handover:
    """Takes requests of this host and of others, and gives those away that others took. `platforms`: served here."""

    def __init__(self, storage: Storage, queue: RequestQueue, replies: Replies, platforms: frozenset[str]) -> None:
        self._inbox, self._hosts = storage.inbox, storage.hosts
        self._queue, self._replies, self._platforms = queue, replies, platforms
        self._expected: dict[str, asyncio.Event] = {}  # by request id; set once this host holds it
        self._silent_until: dict[str, float] = {}  # by host, monotonic
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
                    log.warning("The host %s does not hand a request over, so it is left alone for a while.", holder)
                    self._silent_until[holder] = time.monotonic() + SILENT_S
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

    def received(self, request_id: str) -> bool:
        """Note that this host holds a request; returns whether it waited for it."""
        if (expected := self._expected.get(request_id)) is None:
            return False
        expected.set()
        return True

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
        return request.key.platform in self._platforms and time.monotonic() >= self._silent_until.get(host, 0.0)
