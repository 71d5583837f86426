"""An asynchronous cache with a time to live and a bounded size, for what Slack tells about users and channels.

Concurrent lookups of a key share one call. Cancelling a lookup does not cancel the call, so the next lookup finds its
result.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from bot.types.errors import AdapterError

TTL_S = 600.0
FAILURE_TTL_S = 30.0
"""How long a failed call is not tried again, seconds."""
MAX_ENTRIES = 5000

T = TypeVar("T")


class TTLCache(Generic[T]):
    """Caches the results of `fetch`; `unknown` stands for what could not be fetched."""

    def __init__(self, fetch: Callable[[str], Awaitable[T]], unknown: T) -> None:
        self._fetch, self._unknown = fetch, unknown
        self._entries: OrderedDict[str, tuple[float, T]] = OrderedDict()  # when it expires, and the value
        self._fetching: dict[str, asyncio.Task[T]] = {}

    async def get(self, key: str) -> T:
        """The cached value, or a fetched one. Never raises."""
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
        """The last known value, also an expired one, without a call."""
        return self._entries[key][1] if key in self._entries else self._unknown

    async def close(self) -> None:
        """Cancel running calls."""
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
