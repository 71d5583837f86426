"""Owns the state of every unfinished request, and queues requests in memory: bounded, fair, grouped by model.

A request changes its status only here, by the table TRANSITIONS. A place is reserved before a request is stored, so
that a full queue refuses at once. Each conversation runs one request at a time, in order of arrival; a requeued request
keeps its place. Storage restores the queue after a restart. The requests that other hosts hold are here, too, as far as
this host knows them, so that order, fairness and places are those of all hosts.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from bot.conversations.answer_times import AnswerTimes
from bot.conversations.entry_table import EntryTable, add
from bot.conversations.queue_entries import ENDED, TAKEN, TRANSITIONS, WAITING, Entry, Place
from bot.conversations.service_order import Candidate, PersonKey, ServiceOrder, person_key
from bot.types.errors import QueueFull
from bot.types.messages import ConversationKey, GenerationRequest, RequestStatus

REMEMBERED, MOST_PEOPLE = 20_000, 1000
"""Maximum number of ids of requests, and of people, that are remembered."""
MODEL_RUN = 8
"""Maximum starts of the loaded model in a row while a request for another model waits."""


class RequestQueue(EntryTable):
    """All unfinished requests. `size` caps the waiting ones in total, `per_user` those of one user."""

    def __init__(self, size: int, per_user: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._size, self._per_user, self._clock = size, per_user, clock
        self._reserved: Counter[PersonKey] = Counter()
        self._served: dict[PersonKey, int] = {}  # in order of service
        self._own: dict[str, None] = {}  # ids of the requests that this host held last
        self._count = 0
        self._run_length = 0  # consecutive starts of one model while a request for another one waited
        self.answer_times = AnswerTimes(clock)
        self._listeners: list[Callable[[GenerationRequest], object]] = []
        self.may_take: Callable[[GenerationRequest, str], bool] = lambda request, host: not host
        """Whether a request may be taken; called with the name of the host that holds it, '' for this one."""
        self.is_doubted: Callable[[str], bool] = lambda host: False
        """Whether a host may not hand its requests over: they are taken last, and one at a time."""

    def bound(self, size: int, per_user: int) -> None:
        """Change the limits; requests that already wait keep their places."""
        self._size, self._per_user = size, per_user
        self._changed.set()

    def on_put(self, listener: Callable[[GenerationRequest], object]) -> None:
        """Call `listener` with each request that is put into the queue."""
        self._listeners.append(listener)

    @contextmanager
    def place_for(self, person: PersonKey) -> Iterator[None]:
        """Reserve a place while the request is stored. Raises QueueFull, which names the limit."""
        own, total = self._places_taken(person)
        if own >= self._per_user:
            raise QueueFull(f"You already have {own} questions waiting here; ask again when one is answered.")
        if total >= self._size:
            raise QueueFull(f"{total} questions are waiting already, more than I take; try again soon.")
        add(self._reserved, person, 1)
        try:
            yield
        finally:
            add(self._reserved, person, -1)
            self._changed.set()  # a waiter for a place may have one now

    async def wait_for_place(self, person: PersonKey) -> None:
        """Wait until the queue has a place for this user."""
        while (taken := self._places_taken(person))[0] >= self._per_user or taken[1] >= self._size:
            await self._change()

    def put(self, request: GenerationRequest, host: str = "") -> None:
        """Add a stored request; ignores the limits, because stored requests must be answered.

        host: another one that holds it. What is here already stays, unless the host that held it has ended.
        """
        known = self._entries.get(request.request_id)
        if known is not None and (host or not known.host or known.lent):
            return
        if known is not None and known.status is RequestStatus.STARTING:  # it is being taken from that host
            self.hold(request.request_id)
            return
        if known is not None:
            self._forget(known)
        if host:
            self._insert(Entry(request, self._order_of(request), math.inf, host=host))
            return
        self._note_own(request)
        self._insert(Entry(request, self._order_of(request), self._clock() + request.wait_left_s))
        for listener in self._listeners:
            listener(request)

    def was_here(self, request_id: str) -> bool:
        """Whether this host holds or held a request lately."""
        return request_id in self._own

    def mirrored(self) -> set[str]:
        """Ids of the requests that other hosts hold, except those that this one is taking from them or lends them."""
        return {request_id for request_id, entry in self._entries.items() if _is_mirrored(entry)}

    def mirror(self, others: Mapping[str, tuple[GenerationRequest, str, bool]], known: Collection[str]) -> None:
        """Note the requests that other hosts hold, by id, each with its host and whether it runs.

        Forgets the others of `known`: those that were `mirrored` when the database was read. Those of this host stay as
        they are, and so do those that it is taking from others.
        """
        for request_id in known:
            entry = self._entries.get(request_id)
            if entry is not None and _is_mirrored(entry) and request_id not in others:
                self._forget(entry)
        for request_id, (request, host, running) in others.items():
            if request_id not in self._entries:
                self._insert(Entry(request, self._order_of(request), math.inf, host=host))
            entry = self._entries[request_id]
            if not entry.host or entry.status is RequestStatus.STARTING:
                continue
            status = RequestStatus.RUNNING if running else RequestStatus.WAITING
            if entry.status in WAITING and running:
                self._note_service(request)
            self._count_waiting(entry, -1)
            entry.request, entry.host, entry.lent = request, host, False
            self._count_waiting(entry, 1)
            self._set(entry, status)
        self._changed.set()  # what may be taken depends on which hosts are alive

    def lend(self, request: GenerationRequest, host: str) -> bool:
        """Leave a request of this host to another one that took it, also a new one; False if it does not wait here."""
        entry = self._entries.get(request.request_id)
        if entry is None:
            entry = Entry(request, self._order_of(request), self._clock() + request.wait_left_s)
            self._insert(entry)
        if entry.host or entry.status not in WAITING:
            return False
        entry.request = replace(entry.request, wait_left_s=max(0.0, entry.deadline - self._clock()))
        entry.host, entry.lent, entry.deadline = host, True, math.inf
        self._set(entry, RequestStatus.RUNNING)
        return True

    def handed_over(self, request_id: str) -> None:
        """Note that the host to which a request was lent holds it."""
        if (entry := self._entries.get(request_id)) is not None:
            entry.lent = False

    def take_back(self, request_id: str) -> GenerationRequest | None:
        """Let a request that was lent wait here again; None if it was not lent."""
        entry = self._entries.get(request_id)
        if entry is None or not entry.lent:
            return None
        self._hold(entry)
        self._set(entry, RequestStatus.WAITING)
        return entry.request

    def forget_lent(self, request_id: str) -> None:
        """Forget a request that was lent before it was put: the database tells whether it waits here now."""
        entry = self._entries.get(request_id)
        if entry is not None and entry.lent:
            self._forget(entry)

    def hold(self, request_id: str) -> GenerationRequest | None:
        """Hold a STARTING request that another host handed over, if it is not held yet; None if it was stopped."""
        entry = self._entries.get(request_id)
        if entry is None:
            return None
        if entry.host:
            self._hold(entry)
        return entry.request

    def _hold(self, entry: Entry) -> None:
        self._note_own(entry.request)
        entry.host, entry.lent, entry.deadline = "", False, self._clock() + entry.request.wait_left_s

    def put_back(self, request_id: str) -> None:
        """Let a STARTING request wait again, because it could not be taken."""
        entry = self._entries.get(request_id)
        if entry is not None and entry.status is RequestStatus.STARTING:
            self._move(entry, RequestStatus.REQUEUED)

    def host_of(self, request_id: str) -> str:
        """The other host that holds a request; '' for those of this one and unknown ones."""
        entry = self._entries.get(request_id)
        return entry.host if entry else ""

    async def get(self, loaded: str) -> GenerationRequest:
        """Wait for the next request; it is STARTING then. `loaded`: name of the loaded model, or ''."""
        while (request := self._next(loaded)) is None:
            await self._change()
        entry = self._entries[request.request_id]
        if not entry.host:
            entry.request = replace(request, wait_left_s=max(0.0, entry.deadline - self._clock()))
        self._move(entry, RequestStatus.STARTING)
        self._note_service(request)
        others_wait = any(model != request.model for model in self._models)
        self._run_length = self._run_length + 1 if request.model == loaded and others_wait else 0
        return entry.request

    def run(self, request_id: str) -> bool:
        """Mark a STARTING request as RUNNING; False if it was cancelled meanwhile."""
        entry = self._entries.get(request_id)
        if entry is None:
            return False
        self._move(entry, RequestStatus.RUNNING)
        return True

    def requeue(self, request: GenerationRequest) -> None:
        """Put a taken request back at its place, with new fields; the time that it ran does not count as waiting."""
        entry = self._entries[request.request_id]
        entry.request, entry.deadline = request, self._clock() + request.wait_left_s
        self._move(entry, RequestStatus.REQUEUED)

    def end(self, request_id: str, status: RequestStatus, seconds: float | None = None) -> None:
        """Remove a request that ended with `status`, if it is here; `seconds` updates the model's answer time."""
        entry = self._entries.get(request_id)
        if entry is None:
            return
        if seconds is not None:
            self.answer_times.record(entry.request.model, seconds)
        self._move(entry, status)

    def cancel(self, request_id: str) -> GenerationRequest | None:
        """Cancel a request that does not run yet and return it; None if there is none."""
        entry = self._entries.get(request_id)
        if entry is None or entry.host or entry.status is RequestStatus.RUNNING:
            return None
        self._move(entry, RequestStatus.CANCELLED)
        return entry.request

    def request_stop(self, request_id: str) -> bool:
        """Note that a RUNNING request shall stop; False if it does not run."""
        entry = self._entries.get(request_id)
        if entry is None or entry.host or entry.status is not RequestStatus.RUNNING:
            return False
        entry.stop_requested = True
        return True

    def stop_requested(self, request_id: str) -> bool:
        """Whether a running request shall stop."""
        entry = self._entries.get(request_id)
        return entry is not None and entry.stop_requested

    def release(self) -> list[GenerationRequest]:
        """Remove and return all waiting requests with their waiting time left; the next start continues them.

        They keep their places, so that no more requests are stored than the queue takes.
        """
        left = self.seconds_left()
        released = [
            replace(self._entries[request_id].request, wait_left_s=seconds) for request_id, seconds in left.items()
        ]
        for request_id in left:
            self._remove(request_id)
        return released

    def expired(self) -> list[GenerationRequest]:
        """Remove and return the requests whose waiting time is over; they are FAILED."""
        now = self._clock()
        late = [entry for entry in self._all() if entry.status in WAITING and entry.deadline <= now]
        for entry in late:
            self._move(entry, RequestStatus.FAILED)
        return [entry.request for entry in late]

    def seconds_left(self) -> dict[str, float]:
        """Remaining waiting time of each waiting request."""
        now = self._clock()
        return {
            entry.request.request_id: max(0.0, entry.deadline - now)
            for entry in self._all()
            if entry.status in WAITING and not entry.host
        }

    def status(self, request_id: str) -> RequestStatus | None:
        """The status of an unfinished request; None for others."""
        entry = self._entries.get(request_id)
        return entry.status if entry else None

    def waiting(self) -> list[GenerationRequest]:
        """Waiting and requeued requests in order of arrival."""
        return [entry.request for entry in self._all() if entry.status in WAITING]

    def running(self) -> list[GenerationRequest]:
        """Starting and running requests in order of start."""
        return [entry.request for entry in self._taken.values()]

    def starting(self) -> list[GenerationRequest]:
        """This host's requests that the worker took, and that the engine has not got yet."""
        taken = self._taken.values()
        return [entry.request for entry in taken if not entry.host and entry.status is RequestStatus.STARTING]

    def of_conversation(self, key: ConversationKey) -> list[GenerationRequest]:
        """Unfinished requests of one conversation, in order of arrival."""
        return [entry.request for entry in self._conversations.get(key, {}).values()]

    def places(self, loaded: str, slots: int, load_seconds: Callable[[str], float]) -> dict[str, Place]:
        """Queue position by request id; see `iter_places`."""
        return dict(self.iter_places(loaded, slots, load_seconds))

    def iter_places(
        self, loaded: str, slots: int, load_seconds: Callable[[str], float], delay_s: float = 0.0
    ) -> Iterator[tuple[str, Place]]:
        """Yield request ids and queue positions in order of service, as the queue was at the first step.

        `slots`: concurrent answers; `load_seconds`: load time of a model; `delay_s`: until the engine can run any. An
        answer is estimated to take as long as the earlier ones of its model or, if that is longer, as its model has run
        without finishing one, restarts of the engine included.
        """
        served, model, switching, count = dict(self._served), loaded, delay_s, self._count
        seconds = self.answer_times.estimates()
        taken = deque(person_key(request) for request in self.running())  # they end in the order of their start
        running = Counter(taken)
        order = self._service_order(served, running, [entry for entry in self._all() if entry.status in WAITING])
        number = 0
        while True:
            while len(taken) >= max(1, slots):
                add(running, ended := taken.popleft(), -1)
                order.freed(ended)
            if (request := order.next(model)) is None:
                return
            taken.append(person := person_key(request))
            add(running, person, 1)
            number += 1
            if request.model != model:
                model, switching = request.model, switching + load_seconds(request.model)
            served[person] = count + number
            each = seconds.get(request.model)
            estimate = None if each is None else number / max(1, slots) * each + switching
            yield request.request_id, Place(number, estimate)

    def _note_own(self, request: GenerationRequest) -> None:
        self._own[request.request_id] = None
        while len(self._own) > REMEMBERED:
            del self._own[next(iter(self._own))]

    def _note_service(self, request: GenerationRequest) -> None:
        person = person_key(request)
        self._served.pop(person, None)  # reinsert at the end
        self._count += 1
        self._served[person] = self._count
        while len(self._served) > MOST_PEOPLE:
            del self._served[next(iter(self._served))]

    def _service_order(
        self, served: dict[PersonKey, int], running: Counter[PersonKey], waiting: list[Entry]
    ) -> ServiceOrder:
        candidates = (Candidate(entry.order, entry.request) for entry in waiting)
        return ServiceOrder(candidates, served, running, switch=self._run_length >= MODEL_RUN)

    def _next(self, loaded: str) -> GenerationRequest | None:
        """The next request whose conversation has none running; compares the first of each conversation."""
        busy = {request.key for request in self.running()}
        first = [next(iter(entries.values())) for key, entries in self._conversations.items() if key not in busy]
        first = [entry for entry in first if self.may_take(entry.request, entry.host)]
        doubted = {entry.host for entry in first if entry.host and self.is_doubted(entry.host)}
        if doubted:
            asked = {entry.host for entry in self._taken.values() if entry.status is RequestStatus.STARTING}
            sure = [entry for entry in first if entry.host not in doubted]
            first = sure or [entry for entry in first if entry.host not in asked]
        running = Counter(person_key(request) for request in self.running())
        return self._service_order(self._served, running, first).next(loaded) if first else None

    def _move(self, entry: Entry, status: RequestStatus) -> None:
        if status not in TRANSITIONS[entry.status]:
            raise RuntimeError(f"Request {entry.request.request_id} cannot change from {entry.status} to {status}.")
        was_taken = entry.status in TAKEN
        self._set(entry, status)
        if status in ENDED:
            self._remove(entry.request.request_id)
        self._note_progress(entry, was_taken)

    def _order_of(self, request: GenerationRequest) -> int:
        """The request's number; for one that is not stored, a larger one than that of each other."""
        self._count = max(self._count + 1, request.number)
        return request.number or self._count

    def _note_progress(self, entry: Entry, was_taken: bool) -> None:
        """Restart the time without a finished answer when one ends, and forget it when nothing of the model is left."""
        model = entry.request.model
        taken = [each.status for each in self._taken.values() if each.request.model == model and not each.host]
        if entry.status in ENDED and (was_taken or not (taken or self._models[model])):
            self.answer_times.ended(model)
        if RequestStatus.RUNNING in taken:
            self.answer_times.begun(model)

    def _places_taken(self, person: PersonKey) -> tuple[int, int]:
        """Number of places taken by this user, and in total."""
        return self._shares[person] + self._reserved[person], self._models.total() + self._reserved.total()


def _is_mirrored(entry: Entry) -> bool:
    return bool(entry.host) and not entry.lent and entry.status is not RequestStatus.STARTING
