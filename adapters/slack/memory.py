"""What Slack told about somebody or something, remembered for a while.

In: ids. Out: what was fetched for them. It promises: one call for an id at a time, however many ask; a bounded number
of ids; whoever stops waiting does not stop the call, so the next one finds its answer.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from bot.errors import AdapterError

TTL_S = 600.0
FAILURE_TTL_S = 30.0
"""After a call that failed, how long it is not tried again."""
MAX_ENTRIES = 5000

T = TypeVar("T")


class TTLCache(Generic[T]):
    """Remembers what `fetch` gave; `unknown` stands for what could not be fetched."""

    def __init__(self, fetch: Callable[[str], Awaitable[T]], unknown: T) -> None:
        self._fetch, self._unknown = fetch, unknown
        self._entries: OrderedDict[str, tuple[float, T]] = OrderedDict()  # until when it is good
        self._fetching: dict[str, asyncio.Task[T]] = {}

    async def get(self, key: str) -> T:
        """What is known of it, or told now. Never fails."""
        now = asyncio.get_running_loop().time()
        entry = self._entries.get(key)
        if entry is not None and now < entry[0]:
            self._entries.move_to_end(key)
            return entry[1]
        task = self._fetching.get(key)
        if task is None:
            task = self._fetching[key] = asyncio.create_task(self._load(key))
        return await asyncio.shield(task)

    def cached(self, key: str) -> T:
        """What was told of it last, without asking."""
        return self._entries[key][1] if key in self._entries else self._unknown

    async def close(self) -> None:
        """End the calls that still run."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self, key: str) -> T:
        clock = asyncio.get_running_loop().time
        try:
            value, ttl = await self._fetch(key), TTL_S
        except AdapterError:
            value, ttl = self.cached(key), FAILURE_TTL_S
        finally:
            self._fetching.pop(key, None)
        self._entries[key] = (clock() + ttl, value)
        self._entries.move_to_end(key)
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)
        return value
