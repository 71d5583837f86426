"""Hands requests from the host that holds them to the one that writes their answers.

The holder stops showing a request once its call in flight has ended, so never two hosts write to the same message.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Set
from contextlib import suppress

from bot.conversations.request_queue import RequestQueue
from bot.replies.replies import Replies
from bot.storage import Storage, Unfinished
from bot.types.errors import StorageError
from bot.types.messages import GenerationRequest

log = logging.getLogger(__name__)

HANDOVER_S = 5.0
"""How long a request is waited for that another host holds, seconds: a call in flight may wait for a rate limit."""
DOUBTED_S, AVOIDED_S = 15.0, 60.0
"""How long a host is doubted that did not hand a request over, and how long that request is left alone, seconds."""
LATE_S = 2.0
"""A host whose lease was not renewed for so long after it should have been is asked for nothing, seconds."""
SETTLED_S = 2.0
"""How long no answer begins after an outage of the database, seconds: earlier messages may wait on another host."""
AGAIN_S = 0.1
"""Pause after a request that could not be taken, seconds."""


class Handover:
    """Takes requests of this host and of others, and gives those away that others took. `platforms`: served here."""

    def __init__(self, storage: Storage, queue: RequestQueue, replies: Replies, platforms: frozenset[str]) -> None:
        self._storage, self._inbox, self._hosts = storage, storage.inbox, storage.hosts
        self._queue, self._replies, self.platforms = queue, replies, platforms
        self._expected: dict[str, asyncio.Future[bool]] = {}  # by request id; whether this host holds it now
        self._avoided: dict[str, float] = {}  # until when, by request id; monotonic
        self._doubted: dict[str, float] = {}  # the same by host
        self.late: Set[str] = frozenset()
        """Hosts that may be dead."""
        self.may_answer: Callable[[str], bool] = lambda model: True
        """Whether requests for a model may start here."""
        self._giving: dict[str, asyncio.Task[None]] = {}  # by request id
        queue.may_take, queue.is_doubted = self._may_take, self._is_doubted

    async def take(self, request: GenerationRequest) -> GenerationRequest | None:
        """Take a STARTING request; None if it cannot be taken now, and waits again. Raises StorageError."""
        request_id, holder = request.request_id, self._queue.host_of(request.request_id)
        try:
            return await self._take(request, holder)
        except StorageError:
            if holder:
                await asyncio.sleep(AGAIN_S)
                self._queue.put_back(request_id)
            raise
        except asyncio.CancelledError:
            if self._queue.host_of(request_id):
                with suppress(StorageError):  # the next start, or another host, resets it
                    await self._hosts.withdraw(request_id, handed_over=True)
                self._queue.put_back(request_id)  # it may be this host's already, which others then take from here
            raise

    async def _take(self, request: GenerationRequest, holder: str) -> GenerationRequest | None:
        if self._hosts.this:
            await asyncio.sleep(max(0.0, SETTLED_S - self._storage.outage_over_for_s))
        taken = await self._inbox.start(request.request_id)
        if not self._hosts.this:  # nobody else can have taken it
            return request
        if not taken:
            self._queue.put_back(request.request_id)
            await asyncio.sleep(AGAIN_S)  # what this host knows of the others is older than the database
            return None
        if not self._queue.host_of(request.request_id):
            return request
        return await self._receive(request.request_id, holder)

    async def _receive(self, request_id: str, holder: str) -> GenerationRequest | None:
        expected = self._expected[request_id] = asyncio.get_running_loop().create_future()
        try:
            while not (await asyncio.wait([expected], timeout=HANDOVER_S))[0]:
                if await self._withdraw(request_id):
                    log.info("The host %s has not handed a request over within %.0f s.", holder, HANDOVER_S)
                    self._avoid(request_id, holder)
                    self._queue.put_back(request_id)
                    return None
        finally:
            del self._expected[request_id]
        if not expected.result():
            self._queue.put_back(request_id)
            return None
        return self._queue.hold(request_id)

    async def _withdraw(self, request_id: str) -> bool:
        """False if the request was handed over at the last moment, or has ended: the next look at it tells."""
        try:
            return await self._hosts.withdraw(request_id)
        except StorageError as error:
            log.error("A request of another host could not be left to it: %s", error)
            return False

    def received(self, row: Unfinished) -> None:
        """Note that this host holds a request: one that it took, or a new one that another host gave it."""
        request = row.request
        expected = self._expected.get(request.request_id)
        if expected is not None and row.running:
            if (held := self._queue.hold(request.request_id)) is not None:  # at once, so that a stop finds it
                self._replies.open(held, recall=True)
            _settle(expected, arrived=True)
        elif not row.running and request.key.platform in self.platforms and self._is_new(request.request_id):
            self._replies.open(request, recall=True)  # another host may have shown a part of it
            self._queue.put(request)

    def _is_new(self, request_id: str) -> bool:
        return self._queue.status(request_id) is None and not self._queue.was_here(request_id)

    def expected(self) -> set[str]:
        """Ids of the requests that others are to hand over."""
        return set(self._expected)

    def note_lost(self, request_ids: Collection[str], rows: Iterable[Unfinished]) -> None:
        """Give up waiting for those of these requests that this host has not taken any more, or that have ended."""
        taken = {row.request.request_id for row in rows if row.running and row.taker == self._hosts.this}
        for request_id in set(request_ids) - taken:
            if (expected := self._expected.get(request_id)) is not None:
                _settle(expected, arrived=False)

    def give(self, request: GenerationRequest, taker: str) -> None:
        """Hand a request over that another host took, in the background."""
        request_id = request.request_id
        if request_id in self._giving:
            return
        is_new = self._queue.status(request_id) is None
        if is_new and self._replies.get(request_id) is not None:
            return  # it ends here
        if request.key.platform in self.platforms and not self._queue.lend(request, taker):
            return  # it is being started here, which the database will refuse
        task = asyncio.create_task(self._give(request_id, taker, is_new), name=f"handover {request_id}")
        self._giving[request_id] = task
        task.add_done_callback(lambda _: self._giving.pop(request_id, None))

    async def _give(self, request_id: str, taker: str, is_new: bool) -> None:
        await self._replies.release(request_id)
        try:
            if await self._hosts.hand_over(request_id, taker):
                self._queue.handed_over(request_id)
                return
        except StorageError as error:
            log.error("A request could not be handed over: %s", error)
        if is_new:
            self._queue.forget_lent(request_id)
            return
        request = self._queue.take_back(request_id)
        if request is not None:
            self._replies.open(request, recall=True)

    async def close(self) -> None:
        """Give nothing away any more; the takers get it once this host has ended."""
        giving = list(self._giving.values())
        for task in giving:
            task.cancel()
        await asyncio.gather(*giving, return_exceptions=True)

    def _avoid(self, request_id: str, host: str) -> None:
        now = time.monotonic()
        self._avoided = {name: until for name, until in self._avoided.items() if until > now}
        self._avoided[request_id], self._doubted[host] = now + AVOIDED_S, now + DOUBTED_S

    def _is_doubted(self, host: str) -> bool:
        return self._doubted.get(host, 0.0) > time.monotonic()

    def _may_take(self, request: GenerationRequest, host: str) -> bool:
        if not self.may_answer(request.model):
            return False
        if not host:
            return True
        if request.key.platform not in self.platforms or host in self.late:
            return False
        return self._avoided.get(request.request_id, 0.0) <= time.monotonic()


def _settle(expected: asyncio.Future[bool], *, arrived: bool) -> None:
    if not expected.done():
        expected.set_result(arrived)
