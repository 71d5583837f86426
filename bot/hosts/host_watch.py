"""Watches the other hosts of the database: what they hold, what they ask for, and whether they are alive.

It looks when another host wakes it, and every second, since a wake may be lost.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from bot.conversations.request_queue import RequestQueue
from bot.generation.worker import Worker
from bot.hosts.duties import Duties, duties_of
from bot.hosts.handover import LATE_S, Handover
from bot.hosts.placement import Placement
from bot.models.installed_models import InstalledModels
from bot.models.runtime_config import RuntimeConfig
from bot.replies.replies import Replies
from bot.storage import Host, Storage, StoredReply, Unfinished
from bot.types.errors import StorageError
from bot.types.messages import ConversationKey, GenerationRequest, RequestStatus

log = logging.getLogger(__name__)

LOOK_S = 1.0
SETTLE_S = 0.05
"""Pause before a look, seconds, so that many wakes are one look."""
SLOW_S = 2.0
"""What a look may take without an outage, seconds."""

Lost = Callable[[float], None]
"""Called when a host was declared dead, with the Unix time at which it renewed its lease last."""
Resume = Callable[[Sequence[GenerationRequest], Sequence[StoredReply]], Awaitable[None]]
"""Goes on with the requests and the undelivered texts of a host that has ended."""


class HostWatch:
    """What this host knows of the others. Run `keep` as a task."""

    def __init__(
        self,
        storage: Storage,
        queue: RequestQueue,
        handover: Handover,
        worker: Worker,
        replies: Replies,
        resume: Resume,
        lost: Lost,
        current: RuntimeConfig,
        installed_models: InstalledModels,
    ) -> None:
        self._hosts, self._queue, self._handover = storage.hosts, queue, handover
        self._worker, self._replies, self._resume, self._lost = worker, replies, resume, lost
        self._current, self._installed_models = current, installed_models
        self._described: Duties | None = None
        self._unrenewed: dict[str, tuple[float, float]] = {}  # by host: its lease's expiry, and when it was seen first
        self._seen_at = -math.inf  # when the hosts' leases were read last
        self._heeded: dict[str, tuple[str, bool]] = {}  # signals that were passed on, by request id
        self._unknown: set[str] = set()  # ids of requests that seem to be this host's, and that it does not know
        self._looking = asyncio.Lock()
        self._woken, self._loop = asyncio.Event(), asyncio.get_running_loop()
        storage.on_wake(self._wake)
        handover.may_answer = self._may_answer
        self.others: Sequence[Host] = ()
        """The other hosts that are alive."""
        self._placement = Placement.empty(storage.hosts.this)

    def slots(self) -> int:
        """How many answers all hosts write at once."""
        return self._duties().slots + sum(host.slots for host in self.others)

    def holder(self, key: ConversationKey) -> str:
        """The other host that is to hold the next request of a conversation; '' for this one."""
        if not self.others:
            return ""
        self._placement.slots[self._hosts.this] = self._duties().slots
        chosen = self._placement.choose(key)
        return "" if chosen == self._hosts.this else chosen

    def _may_answer(self, model: str) -> bool:
        """Whether this host may answer with a model: no other host has it, or this one has it, too."""
        return model not in self._current.elsewhere or (self._described is not None and model in self._described.models)

    def models(self) -> list[str]:
        """The models that other hosts have loaded."""
        return sorted({host.model for host in self.others if host.slots})

    def summary(self) -> str:
        """'3 hosts, of which 2 write answers, 16 at once'; '' for a single host."""
        if not self.others:
            return ""
        writing = sum(host.slots > 0 for host in self.others) + (self._duties().slots > 0)
        return f"{len(self.others) + 1} hosts, of which {writing} write answers, {self.slots()} at once"

    async def keep(self) -> None:
        """Look until cancelled."""
        while True:
            self._woken.clear()
            began = time.monotonic()
            try:
                await self.look()
            except StorageError as error:
                log.error("The other hosts could not be looked after: %s", error)
            except Exception:  # a bug must not keep this host from the requests of others for good
                log.exception("The other hosts could not be looked after because of a bug")
            await asyncio.sleep(max(SETTLE_S, time.monotonic() - began))  # under load, looks take half of the time
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._woken.wait()

    async def look(self) -> None:
        """Take note of the other hosts once. Raises StorageError."""
        async with self._looking:  # an older look must not undo what a newer one noted
            await self._look()

    async def look_at_requests(self) -> None:
        """Take note of what the other hosts hold, so that a command finds it. Raises StorageError."""
        if self._hosts.this:
            async with self._looking:
                await self._look_at_requests()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._woken.set)

    async def _look(self) -> None:
        await self._look_at_requests()
        hosts = await self._hosts.all()
        now = time.monotonic()
        if now - self._seen_at > self._hosts.watched_s + LOOK_S + SLOW_S:  # in an outage nobody could renew a lease
            self._unrenewed.clear()
        self._seen_at = now
        self.others = [host for host in hosts if host.left_s > 0 and host.name != self._hosts.this]
        self._current.elsewhere = frozenset[str]().union(*(host.models for host in self.others))
        late = {host.name for host in hosts if host.left_s < self._hosts.renewed_s - LATE_S}
        self._handover.late = late
        for host in self.others:
            if host.answer_s is not None:
                self._queue.answer_times.learn(host.model, host.answer_s)
        await self._describe()
        self._placement.note_hosts(self._duties().slots, [host for host in self.others if host.name not in late])
        for host in hosts:
            if host.name != self._hosts.this and self._is_dead(host, now) and not self._worker.draining:
                await self._take_over(host)

    async def _look_at_requests(self) -> None:
        mirrored, expected = self._queue.mirrored(), self._handover.expected()
        this, rows = self._hosts.this, await self._hosts.unfinished()
        self._placement.note_requests(rows)
        others = [row for row in rows if row.host != this]
        self._queue.mirror(
            {row.request.request_id: (row.request, row.host, row.running) for row in others}, known=mirrored
        )
        own = [row for row in rows if row.host == this]
        for row in own:
            if row.taker not in ("", this):
                self._handover.give(row.request, row.taker)
            elif not self._worker.draining:
                self._handover.received(row)
        self._handover.note_lost(expected, rows)
        await self._heed(own)
        await self._reclaim(rows)

    async def _heed(self, own: Sequence[Unfinished]) -> None:
        """Do what other hosts want of the requests of this one, once they are here."""
        self._heeded = {
            row.request.request_id: heeded for row in own if (heeded := self._heeded.get(row.request.request_id))
        }
        for row in own:
            request_id, wanted = row.request.request_id, (row.stop, row.edited)
            if self._queue.status(request_id) is None or self._queue.host_of(request_id):
                continue
            stop, edited = self._heeded.get(request_id, ("", False))
            if row.edited and not edited:
                self._replies.offer_rerun(request_id)
            if row.stop != stop:
                await self._worker.stop(request_id, unasked=row.stop == "unasked")
            self._heeded[request_id] = wanted

    async def _reclaim(self, rows: Sequence[Unfinished]) -> None:
        """Let requests wait here again that this host holds or took and does not know, for two looks.

        A write that failed, or a bug, may leave such a request; without this it would block its conversation for ever.
        """
        unknown = {row.request.request_id: row for row in rows if self._is_unknown(row)}
        for request_id in self._unknown & unknown.keys():
            row = unknown[request_id]
            log.warning("A request was lost on this host and waits again.", extra={"request_id": request_id})
            if row.running:
                await self._hosts.withdraw(request_id, handed_over=True)
            else:
                self._replies.open(row.request, recall=True)
                self._queue.put(row.request)
        self._unknown = set(unknown)

    def _is_unknown(self, row: Unfinished) -> bool:
        request, this = row.request, self._hosts.this
        if self._worker.draining or request.key.platform not in self._handover.platforms:
            return False
        if row.taker not in ("", this) or this not in (row.host, row.taker):
            return False
        status, known = self._queue.status(request.request_id), self._replies.get(request.request_id) is not None
        if row.host == this:
            return status is None and not known
        return status is not RequestStatus.STARTING

    def _duties(self) -> Duties:
        models = self._installed_models.usable
        return duties_of(self._current.settings, self._worker, self._queue.answer_times, models)

    async def _describe(self) -> None:
        duties = self._duties()
        if duties != self._described:
            await self._hosts.describe(
                duties.roles, duties.slots, duties.model, duties.models, duties.answer_s, duties.settings
            )
            self._described = duties

    def _is_dead(self, host: Host, now: float) -> bool:
        expiry, since = self._unrenewed.get(host.name, (None, now))
        if expiry != host.expires_at:
            since = now
            self._unrenewed[host.name] = (host.expires_at, now)
        if host.expires_at <= 0:  # it has ended, or is known to be dead
            return host.holds
        return host.left_s < 0 and now - since >= self._hosts.watched_s

    async def _take_over(self, host: Host) -> None:
        found = await self._hosts.take_over(host)
        if found is None:
            return
        if host.expires_at > 0:
            self._lost(time.time() + host.left_s - self._hosts.lease_s)
        requests, texts = found
        if requests or texts:
            how = "has ended" if host.expires_at <= 0 else "has not renewed its lease"
            log.warning("The host %s %s: %d of its answers are taken over.", host.name, how, len(requests) + len(texts))
        await self._resume(requests, texts)
