"""Keeps the entries of the queue, in order of arrival, and the numbers that depend on them."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

from bot.conversations.queue_entries import TAKEN, WAITING, Entry
from bot.conversations.service_order import PersonKey, person_key
from bot.types.messages import ConversationKey, RequestStatus

T = TypeVar("T")


class EntryTable:
    """All entries. For `RequestQueue`, which alone decides what becomes of them."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}  # in order of arrival
        self._taken: dict[str, Entry] = {}  # those that a worker took
        self._conversations: dict[ConversationKey, dict[str, Entry]] = {}  # in order of arrival in each
        self._shares: Counter[PersonKey] = Counter()  # waiting requests by user
        self._models: Counter[str] = Counter()  # waiting requests by model
        self._changed = asyncio.Event()

    def _set(self, entry: Entry, status: RequestStatus) -> None:
        """Set the status of an entry, and what depends on it."""
        self._count_waiting(entry, -1)
        entry.status = status
        self._count_waiting(entry, 1)
        if status in TAKEN:
            self._taken[entry.request.request_id] = entry
        else:
            self._taken.pop(entry.request.request_id, None)
        self._changed.set()

    def _insert(self, entry: Entry) -> None:
        """Add an entry where it belongs by its order; nearly always at the end."""
        for entries in (self._entries, self._conversations.setdefault(entry.request.key, {})):
            after = {} if not entries or next(reversed(entries.values())).order <= entry.order else dict(entries)
            for request_id, other in after.items():
                if other.order > entry.order:
                    del entries[request_id]
            entries[entry.request.request_id] = entry
            entries |= {request_id: other for request_id, other in after.items() if other.order > entry.order}
        self._count_waiting(entry, 1)
        self._changed.set()

    def _forget(self, entry: Entry) -> None:
        """Remove an entry whatever its status."""
        self._count_waiting(entry, -1)
        self._remove(entry.request.request_id)
        self._changed.set()

    def _remove(self, request_id: str) -> None:
        self._taken.pop(request_id, None)
        key = self._entries.pop(request_id).request.key
        del self._conversations[key][request_id]
        if not self._conversations[key]:
            del self._conversations[key]

    def _count_waiting(self, entry: Entry, change: int) -> None:
        if entry.status in WAITING:
            add(self._shares, person_key(entry.request), change)
            add(self._models, entry.request.model, change)

    def _all(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def add(counter: Counter[T], key: T, change: int) -> None:
    """Change a count; drops counts of 0."""
    counter[key] += change
    if not counter[key]:
        del counter[key]
