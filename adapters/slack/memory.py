"""What Slack told about somebody or something, remembered for a while.

In: ids. Out: what was fetched for them. It promises: one call for an id at a time, however many ask; a bounded number
of ids; whoever stops waiting does not stop the call, so the next one finds its answer.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from bot.errors import AdapterError

KEPT_S = 600.0
FAILED_S = 30.0
"""After a call that failed, how long it is not tried again."""
MOST = 5000

T = TypeVar("T")


class Memory(Generic[T]):
    """Remembers what `fetch` gave; `unknown` stands for what could not be fetched."""

    def __init__(self, fetch: Callable[[str], Awaitable[T]], unknown: T) -> None:
        self._fetch, self._unknown = fetch, unknown
        self._kept: OrderedDict[str, tuple[float, T]] = OrderedDict()  # until when it is good
        self._asking: dict[str, asyncio.Task[T]] = {}

    async def get(self, name: str) -> T:
        """What is known of it, or told now. Never fails."""
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(name)
        if kept is not None and now < kept[0]:
            self._kept.move_to_end(name)
            return kept[1]
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._ask(name))
        return await asyncio.shield(task)

    def known(self, name: str) -> T:
        """What was told of it last, without asking."""
        return self._kept[name][1] if name in self._kept else self._unknown

    async def close(self) -> None:
        """End the calls that still run."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, name: str) -> T:
        clock = asyncio.get_running_loop().time
        try:
            told, lasts = await self._fetch(name), KEPT_S
        except AdapterError:
            told, lasts = self.known(name), FAILED_S
        finally:
            self._asking.pop(name, None)
        self._kept[name] = (clock() + lasts, told)
        self._kept.move_to_end(name)
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return told
