"""Decides in which order waiting requests are served: fair between users, in order per conversation, by model."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from bot.types.messages import ConversationKey, GenerationRequest

PersonKey = tuple[str, str]
"""Platform and user id."""


def person_key(request: GenerationRequest) -> PersonKey:
    """The user whose `per_user` limit a request counts against."""
    return (request.key.platform, request.author.id)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting request. `order`: its position by arrival."""

    order: int
    request: GenerationRequest


@dataclass(slots=True)
class _OfModel:
    """The first waiting request of each conversation, for one model."""

    by_person: dict[PersonKey, list[tuple[int, Candidate]]] = field(default_factory=dict)  # heaps by order
    people: list[tuple[int, int, int, PersonKey]] = field(default_factory=list)  # a heap by running, served, order
    orders: list[int] = field(default_factory=list)  # a heap


class ServiceOrder:
    """Yields waiting requests one by one, in O(log n) each: those of the loaded model first, the fairest user first.

    `waiting`: in order of arrival. `running`: number of running requests by user. `served`: when a user was served
    last, as a growing number; it may change between two calls. `switch`: another model comes first, because the loaded
    one had its run.
    """

    def __init__(
        self,
        waiting: Iterable[Candidate],
        served: Mapping[PersonKey, int],
        running: Mapping[PersonKey, int],
        *,
        switch: bool,
    ) -> None:
        self._served, self._running, self._switch = served, running, switch
        self._models: dict[str, _OfModel] = {}
        self._taken: set[int] = set()
        self._conversations: dict[ConversationKey, deque[Candidate]] = {}
        for candidate in waiting:
            self._conversations.setdefault(candidate.request.key, deque()).append(candidate)
        for conversation in self._conversations.values():
            self._add(conversation[0])

    def next(self, loaded: str) -> GenerationRequest | None:
        """Remove and return the next request; None if there is none. `loaded`: name of the loaded model, or ''."""
        oldest = {name: order for name in self._models if (order := self._oldest(name)) is not None}
        others = {order: name for name, order in oldest.items() if name != loaded}
        if not oldest:
            return None
        name = others[min(others)] if others and (self._switch or loaded not in oldest) else loaded
        request = self._fairest(self._models[name])
        conversation = self._conversations[request.key]
        conversation.popleft()
        if conversation:
            self._add(conversation[0])
        return request

    def _fairest(self, model: _OfModel) -> GenerationRequest:
        while True:
            running, served, order, person = heappop(model.people)
            own = model.by_person[person]
            now = (running, self._served.get(person, 0), own[0][0]) if own else None
            if now == (running, served, order):
                break
            if now is not None:  # stale entry: the user was served, or the request was taken
                heappush(model.people, (*now, person))
        _, candidate = heappop(own)
        self._taken.add(candidate.order)
        if own:
            heappush(model.people, (running, self._served.get(person, 0), own[0][0], person))
        return candidate.request

    def _add(self, candidate: Candidate) -> None:
        """Add the first request of a conversation."""
        model = self._models.setdefault(candidate.request.model, _OfModel())
        heappush(model.orders, candidate.order)
        person = person_key(candidate.request)
        own = model.by_person.setdefault(person, [])
        heappush(own, (candidate.order, candidate))
        if own[0][1] is candidate:
            key = (self._running.get(person, 0), self._served.get(person, 0), candidate.order, person)
            heappush(model.people, key)

    def _oldest(self, name: str) -> int | None:
        orders = self._models[name].orders
        while orders and orders[0] in self._taken:
            heappop(orders)
        return orders[0] if orders else None
