"""Queues requests in memory: bounded, fair between users, grouped by model.

A place is reserved before a request is stored, so that a full queue refuses at once. Each conversation runs one request
at a time. The user who was served longest ago comes first. After MODEL_RUN starts of the loaded model, another model's
requests come first; this prevents both starvation and thrashing. Storage restores the queue after a restart.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from bot.types.errors import QueueFull
from bot.types.messages import ConversationKey, GenerationRequest

MODEL_RUN = 8
"""Maximum starts of the loaded model in a row while a request for another model waits."""

PersonKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Place:
    """Queue position, 1 being next, and estimated seconds; None before the first measurement."""

    number: int
    seconds: float | None


@dataclass(slots=True)
class _Waiting:
    request: GenerationRequest
    deadline: float  # on the monotonic clock
    order: int


def person_key(request: GenerationRequest) -> PersonKey:
    """The user whose `per_user` limit a request counts against."""
    return (request.key.platform, request.author.id)


@dataclass(slots=True)
class _OfModel:
    """Waiting requests of one model: a FIFO per conversation, and the heads of these by user."""

    talks: dict[ConversationKey, deque[_Waiting]] = field(default_factory=dict)
    firsts: dict[PersonKey, list[tuple[int, _Waiting]]] = field(default_factory=dict)  # a heap by order
    people: list[tuple[int, int, int, PersonKey]] = field(default_factory=list)  # a heap by running, served, order
    orders: list[int] = field(default_factory=list)  # a heap


class _Line:
    """Picks waiting requests in O(log n) each: those of the loaded model during its run, the fairest user first.

    `served` may change between two calls. long_run: the loaded model used up its MODEL_RUN, so another one comes first.
    """

    def __init__(
        self,
        waiting: Iterable[_Waiting],
        served: Mapping[PersonKey, int],
        running: Mapping[PersonKey, int],
        long_run: bool,
    ) -> None:
        self._served, self._running, self._long_run = served, running, long_run
        self._models: dict[str, _OfModel] = {}
        self._taken: set[int] = set()
        for item in sorted(waiting, key=lambda item: (item.request.accepted_at, item.order)):
            model = self._models.setdefault(item.request.model, _OfModel())
            model.talks.setdefault(item.request.key, deque()).append(item)
            heappush(model.orders, item.order)
        for model in self._models.values():
            for talk in model.talks.values():
                self._stand(model, talk[0])

    def next(self, loaded: str) -> _Waiting | None:
        """Remove and return the next request; None if there is none."""
        same = self._oldest(loaded) is not None
        others = {order: name for name in self._models if name != loaded and (order := self._oldest(name)) is not None}
        if not same and not others:
            return None
        model = self._models[others[min(others)] if others and (self._long_run or not same) else loaded]
        while True:
            running, served, order, person = heappop(model.people)
            firsts = model.firsts[person]
            now = (running, self._served.get(person, 0), firsts[0][0]) if firsts else None
            if now == (running, served, order):
                break
            if now is not None:  # stale entry: the user was served, or the request was taken
                heappush(model.people, (*now, person))
        _, item = heappop(firsts)
        self._taken.add(item.order)
        if firsts:
            heappush(model.people, (running, self._served.get(person, 0), firsts[0][0], person))
        talk = model.talks[item.request.key]
        talk.popleft()
        if talk:
            self._stand(model, talk[0])
        return item

    def _stand(self, model: _OfModel, item: _Waiting) -> None:
        """Add a request that is now the head of its conversation."""
        person = person_key(item.request)
        firsts = model.firsts.setdefault(person, [])
        heappush(firsts, (item.order, item))
        if firsts[0][1] is item:
            heappush(model.people, (self._running.get(person, 0), self._served.get(person, 0), item.order, person))

    def _oldest(self, name: str) -> int | None:
        model = self._models.get(name)
        while model is not None and model.orders and model.orders[0] in self._taken:
            heappop(model.orders)
        return model.orders[0] if model is not None and model.orders else None


class RequestQueue:
    """All unfinished requests. `size` caps the waiting ones in total, `per_user` those of one user."""

    def __init__(self, size: int, per_user: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size, self._per_user, self._clock = size, per_user, clock
        self._waiting: dict[str, _Waiting] = {}
        self._running: dict[str, GenerationRequest] = {}
        self._reserved: Counter[PersonKey] = Counter()
        self._shares: Counter[PersonKey] = Counter()  # waiting requests by user
        self._served: dict[PersonKey, int] = {}
        self._orders = 0
        self._run_length = 0  # consecutive starts of one model while a request for another one waited
        self._changed = asyncio.Event()
        self._seconds: dict[str, float] = {}  # smoothed answer time by model

    def bound(self, size: int, per_user: int) -> None:
        """Change the limits; requests that already wait keep their places."""
        self._size, self._per_user = size, per_user
        self._changed.set()

    @contextmanager
    def place_for(self, person: PersonKey) -> Iterator[None]:
        """Reserve a place while the request is stored. Raises QueueFull, which names the limit."""
        mine, everybodys = self._taken(person)
        if mine >= self._per_user:
            raise QueueFull(f"You already have {mine} questions waiting here; ask again when one is answered.")
        if everybodys >= self._size:
            raise QueueFull(f"{everybodys} questions are waiting already, more than I take; try again soon.")
        self._reserved[person] += 1
        try:
            yield
        finally:
            self._reserved -= Counter({person: 1})
            self._changed.set()  # a waiter for a place may have one now

    async def wait_for_place(self, person: PersonKey) -> None:
        """Wait until the queue has a place for this user."""
        while (taken := self._taken(person))[0] >= self._per_user or taken[1] >= self._size:
            self._changed.clear()
            await self._changed.wait()

    def put(self, request: GenerationRequest) -> None:
        """Add a stored request; ignores the limits, because stored requests must be answered."""
        self._orders += 1
        self._take(request.request_id)
        self._waiting[request.request_id] = _Waiting(request, self._clock() + request.wait_left_s, self._orders)
        self._shares[person_key(request)] += 1
        self._changed.set()

    async def get(self, loaded: str) -> GenerationRequest:
        """Wait for the next request and mark it as running. `loaded`: name of the loaded model, or ''."""
        while (item := self._first(loaded)) is None:
            self._changed.clear()
            await self._changed.wait()
        request = replace(item.request, wait_left_s=max(0.0, item.deadline - self._clock()))
        self._take(request.request_id)
        self._running[request.request_id] = request
        self._served.pop(person_key(request), None)  # reinsert at the end: the dict is in order of service
        self._orders += 1
        self._served[person_key(request)] = self._orders
        others_wait = any(other.request.model != request.model for other in self._waiting.values())
        self._run_length = self._run_length + 1 if request.model == loaded and others_wait else 0
        self._forget_people()
        self._changed.set()
        return request

    def done(self, request_id: str, seconds: float | None = None) -> None:
        """Remove a finished request; `seconds` updates the model's answer time."""
        request = self._running.pop(request_id, None)
        if request is not None and seconds is not None:
            before = self._seconds.get(request.model, seconds)
            self._seconds[request.model] = 0.7 * before + 0.3 * seconds
        self._changed.set()

    def remove(self, request_id: str) -> GenerationRequest | None:
        """Remove a waiting request and return it with its remaining waiting time."""
        item = self._take(request_id)
        self._changed.set()
        return replace(item.request, wait_left_s=max(0.0, item.deadline - self._clock())) if item else None

    def expired(self) -> list[GenerationRequest]:
        """Remove and return the requests whose waiting time is over."""
        now = self._clock()
        late = [request_id for request_id, item in self._waiting.items() if item.deadline <= now]
        return [request for request_id in late if (request := self.remove(request_id))]

    def seconds_left(self) -> dict[str, float]:
        """Remaining waiting time of each waiting request."""
        now = self._clock()
        return {request_id: max(0.0, item.deadline - now) for request_id, item in self._waiting.items()}

    def waiting(self) -> list[GenerationRequest]:
        """Waiting requests in order of arrival."""
        return [item.request for item in self._waiting.values()]

    def running(self) -> list[GenerationRequest]:
        """Running requests in order of start."""
        return list(self._running.values())

    def of_conversation(self, key: ConversationKey) -> list[GenerationRequest]:
        """Unfinished requests of one conversation, running first."""
        return [request for request in (*self.running(), *self.waiting()) if request.key == key]

    def places(self, loaded: str, slots: int, load_seconds: Callable[[str], float]) -> dict[str, Place]:
        """Queue position by request id. `slots`: concurrent answers; `load_seconds`: load time of a model."""
        served, model, switching = dict(self._served), loaded, 0.0
        line = self._line(self._waiting.values(), served)
        places: dict[str, Place] = {}
        while (item := line.next(model)) is not None:
            if item.request.model != model:
                model, switching = item.request.model, switching + load_seconds(item.request.model)
            served[person_key(item.request)] = self._orders + len(places) + 1
            number, each = len(places) + 1, self._seconds.get(item.request.model)
            seconds = None if each is None else number / max(1, slots) * each + switching
            places[item.request.request_id] = Place(number, seconds)
        return places

    def _line(self, waiting: Iterable[_Waiting], served: Mapping[PersonKey, int]) -> "_Line":
        running = Counter(person_key(request) for request in self._running.values())
        return _Line(waiting, served, running, self._run_length >= MODEL_RUN)

    def _taken(self, person: PersonKey) -> tuple[int, int]:
        """Number of places taken by this user, and in total."""
        return self._shares[person] + self._reserved[person], len(self._waiting) + self._reserved.total()

    def _take(self, request_id: str) -> _Waiting | None:
        item = self._waiting.pop(request_id, None)
        if item is not None:
            self._shares -= Counter({person_key(item.request): 1})  # drops entries at 0
        return item

    def _first(self, loaded: str) -> _Waiting | None:
        """The next request whose conversation has none running."""
        busy = {request.key for request in self._running.values()}
        free = [item for item in self._waiting.values() if item.request.key not in busy]
        return self._line(free, self._served).next(loaded)

    def _forget_people(self) -> None:
        while len(self._served) > 1000:
            del self._served[next(iter(self._served))]
