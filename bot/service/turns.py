"""Holds turns by leases in the database, so that one of several hosts holds each.

A turn is trusted until shortly before its lease ends, counted from the start of the last renewal that succeeded. A host
that cannot reach the database keeps it longer, since it may be out of reach for all: then nobody can take the turn, and
the connection stays. If another host takes it, both get the same events for a while, and each is stored once.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bot.storage import Host, Leases, Storage
from bot.types.errors import StorageError

log = logging.getLogger(__name__)

EVERYWHERE = ("slack",)
"""Turns that each host holds: Slack sends an event to any one of an app's sockets, at most ten. A host that is cut off
from the database gives them up: it cannot store the events that it gets, and another one may.
"""


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """Seconds. `valid`: the length of a lease. `margin`: how long before its end it is not trusted any more. `every`:
    between two renewals. `poll`: between two looks at leases of others. `cut_off`: how long after the end of a lease
    that could not be renewed its host leaves the turn to others, if there are any.
    """

    valid: float = 15.0
    margin: float = 1.0
    every: float = 5.0
    poll: float = 1.0
    cut_off: float = 45.0


class LeasedTurns:
    """Turns of the host `owner`, inside of its `async with` block.

    others: the other hosts that are alive, as far as it was known last. may_send: whether the lease of this host lasts.
    outage_over_for_s: as in Storage. everywhere: turns that every host holds.
    """

    def __init__(
        self,
        leases: Leases,
        owner: str,
        others: Callable[[], Sequence[Host]] = lambda: (),
        may_send: Callable[[], bool] = lambda: True,
        outage_over_for_s: Callable[[], float] = lambda: math.inf,
        *,
        everywhere: Collection[str] = EVERYWHERE,
        timing: LeaseTiming | None = None,
    ) -> None:
        self._leases, self._owner, self._everywhere = leases, owner, everywhere
        self._others, self._may_send, self._timing = others, may_send, timing or LeaseTiming()
        self._wanted: dict[str, tuple[str, ...]] = {}  # by name, the names that are divided with it
        self._trusted_until: dict[str, float] = {}  # on the clock of `_clock`
        self._cut_off = False
        self._outage_over_for_s = outage_over_for_s
        self._began = -math.inf
        self._renews = True  # as of the last attempt
        self._changed, self._due = asyncio.Event(), asyncio.Event()
        self._electing: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, storage: Storage, others: Callable[[], Sequence[Host]]) -> Self:
        """The turns of the host that uses this storage."""
        this, leases = storage.hosts.this, storage.leases
        return cls(leases, this, others, lambda: storage.holds_claim, lambda: storage.outage_over_for_s)

    async def __aenter__(self) -> Self:
        self._began = _clock()
        self._electing = asyncio.create_task(self._keep_electing(), name="turns")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release all turns, so that another host can take them at once."""
        assert self._electing is not None
        self._electing.cancel()
        await asyncio.gather(self._electing, return_exceptions=True)
        for name in list(self._wanted):
            await self.release(name)

    @property
    def may_send(self) -> bool:
        """Whether no other host can have taken over what this one shows."""
        return self._may_send()

    def holds(self, name: str) -> bool:
        """Whether this host holds a turn, or may hold it as far as it can know."""
        if name in self._everywhere:
            return not self._cut_off
        trusted_until = self._trusted_until.get(name)
        if trusted_until is None:
            return False
        return not self._are_others_receiving() or _clock() < trusted_until + self._timing.cut_off

    def holds_any(self, platform: str) -> bool:
        """Whether this host holds a turn of a platform, or a part of one."""
        return any(map(self.holds, [platform, *self._of(platform)]))

    def _are_others_receiving(self) -> bool:
        """Whether another host could hold the turns of this one."""
        return any("adapters" in host.roles for host in self._others())

    def _of(self, platform: str) -> list[str]:
        return [name for name in self._wanted if name.partition(" ")[0] == platform]

    async def wait(self, name: str, among: Sequence[str] = ()) -> None:
        """Wait until this host holds `name`. `among`: names that are divided among the hosts that wait for any."""
        if name in self._everywhere:
            while not self._may_send():  # noqa: ASYNC110 -- the lease tells nobody
                await asyncio.sleep(self._timing.poll)
            self._cut_off = False
            return
        self._wanted[name] = tuple(among) or (name,)
        self._due.set()
        try:
            while not self.holds(name):
                await self._changed.wait()
        except asyncio.CancelledError:
            await self.release(name)
            raise

    async def wait_lost(self, name: str) -> None:
        """Wait until this host may not hold `name` any more."""
        if name in self._everywhere:
            await self._wait_cut_off()
            return
        while self.holds(name):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.poll):
                    await self._changed.wait()

    async def _wait_cut_off(self) -> None:
        well = _clock()
        while _clock() - well < self._timing.cut_off:
            await asyncio.sleep(self._timing.poll)
            if self._may_send() or not self._are_others_receiving():
                well = _clock()
        self._cut_off = True
        log.warning("The database cannot be reached, so the other hosts get what this one would receive meanwhile.")

    async def release(self, name: str) -> None:
        """Let another host hold `name`."""
        among = self._wanted.pop(name, None)
        held = self._trusted_until.pop(name, None) is not None
        self._notify()
        left = [among] if among and among not in self._wanted.values() else []
        if held or left:
            with suppress(StorageError):  # it ends by itself
                await self._leases.release(self._owner, [name] if held else [], left)

    async def pause(self, name: str, seconds: float, at_most: float = math.inf) -> None:
        """Wait until `seconds` have passed since any host's last pause of this name ended. Raises TimeoutError."""
        while True:
            try:
                wait = await self._leases.reserve(self._owner, name, seconds, at_most)
                break
            except StorageError as error:
                log.warning("%s waits for the database: %s", name, error)
                await asyncio.sleep(self._timing.poll)
        if wait is None:
            raise TimeoutError
        await asyncio.sleep(wait)

    @property
    def hosts(self) -> int:
        """The number of hosts that are alive."""
        return len(self._others()) + 1

    async def _keep_electing(self) -> None:
        elected = 0.0
        while True:
            try:
                due = self._due.is_set() or _clock() - elected >= self._timing.every or self._is_in_doubt()
                if due or await self._any_free():
                    self._due.clear()
                    elected = _clock()
                    for names in set(self._wanted.values()):
                        await self._elect(names)
            except Exception:  # a bug must not keep this host from all turns for good
                log.exception("The turns could not be renewed because of a bug")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.poll):
                    await self._due.wait()

    async def _any_free(self) -> bool:
        """Whether no host holds a turn that this one waits for."""
        waiting = [name for name in self._wanted if not self.holds(name)]
        with suppress(StorageError):
            return bool(waiting) and await self._leases.any_free(waiting)
        return False

    def _is_in_doubt(self) -> bool:
        """Whether a lease of this host may have ended."""
        now = _clock()
        return any(trusted_until <= now and self.holds(name) for name, trusted_until in self._trusted_until.items())

    async def _elect(self, names: tuple[str, ...]) -> None:
        """Claim and renew the turns of `names` that this host wants."""
        began = _clock()
        wanted = {name for name, among in self._wanted.items() if among == names}
        held = {name for name in wanted if self.holds(name)}
        # After an outage the host that was connected renews its lease first; this one may have started during it.
        expired = min(began - self._began, self._outage_over_for_s()) >= self._timing.every
        try:
            kept = await self._leases.share(self._owner, names, wanted, held, self._timing.valid, expired=expired)
        except StorageError as error:
            renewed, self._renews = self._renews, False
            if held and renewed:
                log.warning("%s could not be renewed: %s", ", ".join(sorted(held)), error)
            return
        self._renews = True
        for name in wanted - kept:
            self._trusted_until.pop(name, None)
        for name in kept & self._wanted.keys():
            self._trusted_until[name] = began + self._timing.valid - self._timing.margin
        if late := kept - self._wanted.keys():  # released meanwhile
            with suppress(StorageError):
                await self._leases.release(self._owner, late)
        self._notify()

    def _notify(self) -> None:
        """Wake all waits."""
        self._changed.set()
        self._changed = asyncio.Event()


def _clock() -> float:
    """Monotonic seconds that also pass while the machine is suspended, where the system has such a clock."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)
