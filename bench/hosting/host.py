"""One host: its process, which is started again after each exit, and the faults that it suffers."""

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from bench.hosting.links import Link
from bot.storage.identity import OWNER
from tests.support.crash.killable_service import CrashSetup

RESTART_S = (3.0, 30.0)
"""Pauses after an exit: shorter than a lease, and longer; the unit's are 90 s."""
KILLED, SUSPENDED, CUT_OFF = "killed", "suspended", "cut off"
LASTS_S = {KILLED: (0.0, 0.0), SUSPENDED: (60.0, 60.0), CUT_OFF: (20.0, 40.0)}
"""Shortest and longest time until a fault ends."""
REFUSED = 78
"""Exit status after which systemd does not start it again."""


@dataclass(slots=True)
class Fault:
    """One fault: at which Unix time it began, and the numbers of the unfinished questions that the host held."""

    kind: str
    host: str
    at: float
    held: list[int] = field(default_factory=list)


class Host:
    """A host. statuses: how its process ended, counted by the fault that it suffered then, '' for none."""

    def __init__(self, name: str, setup: CrashSetup, link: Link, chance: Random) -> None:
        self.name, self.setup, self.link, self._chance = name, setup, link, chance
        self.fault = ""
        self.statuses = Counter[tuple[str, int | None]]()
        self.broken: list[str] = []
        self._last, self._stopping = "", False
        self._supervising: asyncio.Task[None] | None = None

    @property
    def instance(self) -> str:
        """The name by which the database knows it, '' before its first start."""
        path = self.setup.root / "state" / OWNER
        return path.read_text("utf-8").strip() if path.exists() else ""

    @property
    def is_well(self) -> bool:
        """Whether it runs and suffers no fault."""
        return self.setup.is_running and not self.fault

    def start(self) -> None:
        """Starts the process, and again after each exit until `stop`."""
        self._supervising = asyncio.create_task(self._supervise(), name=self.name)

    async def stop(self) -> None:
        """Stops the process as an operator does."""
        self._stopping = True
        if self.setup.is_running:
            await self.setup.stop()

    async def close(self) -> None:
        """Kills the process, if it still runs."""
        self._stopping = True
        if self._supervising is not None:
            self._supervising.cancel()
            await asyncio.gather(self._supervising, return_exceptions=True)
        await self.setup.close()

    async def suffer(self, kind: str, seconds: float) -> None:
        """Suffers a fault for some time."""
        self.fault = self._last = kind
        try:
            if kind == CUT_OFF:
                await self.link.cut()
            elif self.setup.is_running:
                self.setup.send(signal.SIGKILL if kind == KILLED else signal.SIGSTOP)
            await asyncio.sleep(seconds)
        finally:
            if kind == CUT_OFF:
                await self.link.restore()
            elif kind == SUSPENDED and self.setup.is_running:
                self.setup.send(signal.SIGCONT)
            self.fault = ""

    async def _supervise(self) -> None:
        while True:
            began = time.monotonic()
            await self.setup.start(connected=False)
            while self.setup.is_running:  # noqa: ASYNC110 -- polls another process
                await asyncio.sleep(0.1)
            if self._stopping:
                return
            status = await self.setup.status()
            reason, self._last = self.fault or self._last, self.fault
            self.statuses[reason, status] += 1
            if status in (0, REFUSED) or not reason:
                seconds = time.monotonic() - began
                self.broken.append(
                    f"{self.name} ended by itself after {seconds:.0f} s with status {status}\n{self.setup.log()}"
                )
            await asyncio.sleep(self._chance.choice(RESTART_S))
