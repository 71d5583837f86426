"""Decides which of several hosts holds a connection that a platform should see once."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Turns(Protocol):
    """Turns by name: at most one host holds a name, except while one host may not know yet that it lost it."""

    async def wait(self, name: str, among: Sequence[str] = ()) -> None:
        """Wait until this host holds `name`; it keeps it until it is lost or released.

        among: names, with this one, that are divided equally among the hosts that wait for any of them.
        """
        ...

    async def wait_lost(self, name: str) -> None:
        """Wait until this host may not hold `name` any more."""
        ...

    async def release(self, name: str) -> None:
        """Let another host hold `name`."""
        ...

    async def pause(self, name: str, seconds: float, at_most: float = math.inf) -> None:
        """Wait until `seconds` have passed since any host's last pause of this name ended.

        Raises TimeoutError at once if that is longer than `at_most`; then the next pause is not put off.
        """
        ...

    @property
    def hosts(self) -> int:
        """The number of hosts that are alive, which share the platform's limits; 0 if it is not known."""
        ...

    @property
    def may_send(self) -> bool:
        """Whether no other host can have taken over what this one shows."""
        ...


class Always:
    """The turns of a single host: it holds everything at once."""

    def __init__(self) -> None:
        self._paused_until: dict[str, float] = {}

    async def wait(self, name: str, among: Sequence[str] = ()) -> None:
        """Return at once."""

    async def wait_lost(self, name: str) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()

    async def release(self, name: str) -> None:
        """Do nothing."""

    async def pause(self, name: str, seconds: float, at_most: float = math.inf) -> None:
        """Wait until `seconds` have passed since the last pause of this name ended. Raises TimeoutError."""
        now = time.monotonic()
        ends = max(now, self._paused_until.get(name, now))
        if ends - now > at_most:
            raise TimeoutError
        self._paused_until[name] = ends + seconds
        await asyncio.sleep(ends - now)

    @property
    def hosts(self) -> int:
        """Return 1."""
        return 1

    @property
    def may_send(self) -> bool:
        """Return True."""
        return True


class Never(Always):
    """The turns of a host without the role `adapters`: it posts, but receives nothing. `turns`: this host's own."""

    def __init__(self, turns: Turns | None = None) -> None:
        super().__init__()
        self._turns = turns

    @property
    def hosts(self) -> int:
        """The number of hosts that are alive."""
        return self._turns.hosts if self._turns else 1

    @property
    def may_send(self) -> bool:
        """Whether no other host can have taken over what this one shows."""
        return self._turns.may_send if self._turns else True

    async def wait(self, name: str, among: Sequence[str] = ()) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()

    async def wait_lost(self, name: str) -> None:
        """Return at once."""


async def while_held(
    turns: Turns,
    name: str,
    work: Callable[[], Awaitable[T]],
    *,
    among: Sequence[str] = (),
    overlap_s: float = 0.0,
) -> T:
    """Run `work` while this host holds `name`: it begins with each turn, and is cancelled when the turn is lost.

    Returns its result or raises its error. overlap_s: how long it goes on, so that the next host can begin meanwhile.
    """
    while True:
        await turns.wait(name, among)
        working = asyncio.ensure_future(work())
        lost = asyncio.create_task(turns.wait_lost(name))
        try:
            await asyncio.wait([working, lost], return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and overlap_s:
                await asyncio.wait([working], timeout=overlap_s)
        finally:
            for task in (working, lost):
                task.cancel()
            await _ended(working, lost)
            await turns.release(name)
        if not working.cancelled():
            return working.result()


async def _ended(*tasks: asyncio.Future[Any]) -> None:  # Any: their results are not used
    await asyncio.gather(*tasks, return_exceptions=True)
