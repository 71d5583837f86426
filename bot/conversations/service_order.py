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


Rank = tuple[int, int, int]
"""Number of running requests, when served last, and order of the first candidate of a user."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting request. `order`: its position by arrival."""

    order: int
    request: GenerationRequest


@dataclass(slots=True)
class _OfModel:
    """The first waiting request of each conversation, for one model."""

    by_person: dict[PersonKey, list[tuple[int, Candidate]]] = field(default_factory=dict)  # heaps by order
    people: list[tuple[Rank, PersonKey]] = field(default_factory=list)  # a heap, with outdated entries
    ranks: dict[PersonKey, Rank] = field(default_factory=dict)  # of each person's newest entry in `people`
    orders: list[int] = field(default_factory=list)  # a heap


class ServiceOrder:
    """Yields waiting requests one by one, in O(log n) each: those of the loaded model first, the fairest user first.

    `waiting`: in order of arrival. `running`: number of running requests by user. `served`: when a user was served
    last, as a growing number. Both may change between two calls; call `freed` where a number of running requests became
    smaller. `switch`: another model comes first, because the loaded
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

    def freed(self, person: PersonKey) -> None:
        """Note that a request of this user does not run any more."""
        for model in self._models.values():
            self._rank(model, person)

    def _fairest(self, model: _OfModel) -> GenerationRequest:
        while True:
            rank, person = heappop(model.people)
            if model.ranks.get(person) != rank:
                continue  # a newer entry replaced it
            if self._rank(model, person) == rank:
                break
        _, candidate = heappop(model.by_person[person])
        self._taken.add(candidate.order)
        self._rank(model, person)
        return candidate.request

    def _rank(self, model: _OfModel, person: PersonKey) -> Rank | None:
        """Add an entry for the user, unless the newest one is still right; returns the user's rank."""
        own = model.by_person.get(person)
        if not own:
            model.ranks.pop(person, None)
            return None
        rank = (self._running.get(person, 0), self._served.get(person, 0), own[0][0])
        if model.ranks.get(person) != rank:
            model.ranks[person] = rank
            heappush(model.people, (rank, person))
        return rank

    def _add(self, candidate: Candidate) -> None:
        """Add the first request of a conversation."""
        model = self._models.setdefault(candidate.request.model, _OfModel())
        heappush(model.orders, candidate.order)
        person = person_key(candidate.request)
        own = model.by_person.setdefault(person, [])
        heappush(own, (candidate.order, candidate))
        self._rank(model, person)

    def _oldest(self, name: str) -> int | None:
        orders = self._models[name].orders
        while orders and orders[0] in self._taken:
            heappop(orders)
        return orders[0] if orders else None
