"""The service of the state machine: starts, stops, kills and restarts it.

A kill copies the database as it is at that moment, and the next service uses the copy: further writes of the old
service go to a directory that is not used any more.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

from bot.conversations.request_queue import RequestQueue
from bot.models.catalog import Catalog
from bot.platforms.adapter import Limits
from bot.service.service import Service
from bot.types.engine import EngineRequest
from bot.types.errors import StorageError
from tests.support.builders.service import make_settings
from tests.support.state_machine.faulty_disk import Disk, Stored
from tests.support.state_machine.recording_platform import KillableAdapter, RecordingPlatform, WatchedEngine

LIMITS = Limits(max_chars=60, min_interval_s=0.0)
QUEUE_SIZE, PER_USER = 6, 2
PATIENCE_S = 30.0
"""Limit in seconds of real time for each wait."""


class MachineSetup:
    """Runs at most one service at a time. `clock` is its monotonic clock, `pace` the seconds per word."""

    def __init__(
        self,
        root: Path,
        platform: RecordingPlatform,
        disk: Disk,
        clock: Callable[[], float],
        pace: Callable[[], float],
        reading: Callable[[EngineRequest], None],
        dying: Callable[[], None],
    ) -> None:
        self._root, self._platform, self._disk = root, platform, disk
        self._clock, self._pace, self._reading, self._dying = clock, pace, reading, dying
        self._lives = 0
        self._running: asyncio.Task[None] | None = None
        self.engine: WatchedEngine

    @property
    def state(self) -> Path:
        """The current state directory."""
        return self._root / f"state-{self._lives}"

    @property
    def up(self) -> bool:
        """Whether a service runs. Raises the exception that ended it, unless it was an injected storage fault."""
        if self._running is not None and self._running.done():
            ended, self._running = self._running, None
            try:
                ended.result()
            except StorageError:
                assert self._disk.struck or self._disk.ill, "it ended because of storage, which was well"
                return False
            raise AssertionError("the service ended by itself")
        return self._running is not None

    @property
    def caught_up(self) -> bool:
        """Whether the backfill is complete."""
        return self._adapter.caught_up.is_set()

    @property
    def handling(self) -> bool:
        """Whether an event is being handled."""
        return self._adapter.handling

    async def starts(self) -> None:
        """Starts a service, and waits until it is connected or has failed."""
        if self.up:
            return
        made = make_settings(
            self._root,
            state_dir=self.state,
            database_url=self._disk.url,
            queue_size=QUEUE_SIZE,
            per_user=PER_USER,
            deadline=600,
            drain=2,
        )
        self.engine = WatchedEngine(self._reading, self._dying, self._pace)
        self._adapter = KillableAdapter(self._platform.port, limits=LIMITS)
        with patch("bot.service.service.RequestQueue", partial(RequestQueue, clock=self._clock)):
            self._service = Service(made, Catalog.of(made), [self._adapter], self.engine)
        self._running = asyncio.create_task(self._service.run(), name="service")
        await soon(lambda: self._platform.here or not self.up, "it is connected")

    async def stops(self) -> None:
        """Stops the service as SIGTERM does."""
        if not self.up:
            return
        ended, self._running = self._running, None
        assert ended is not None
        self._service.stop()
        await asyncio.wait([ended])
        error = ended.exception()
        assert error is None or (isinstance(error, StorageError) and self._disk.struck), error
        await soon(lambda: not self._platform.here, "it is disconnected")

    async def is_killed(self, *, powerless: bool = False) -> None:
        """Simulates SIGKILL or a loss of power. The next service starts from what is on the disk at this moment."""
        if not self.up:
            return
        old = self.state
        self._lives += 1
        self._disk.copy(old, self.state, powerless=powerless)
        self._disk.heal()
        ended, self._running = self._running, None
        assert ended is not None
        self._adapter.dies()
        self._service.stop()
        self._service.stop()
        ended.cancel()
        await asyncio.wait([ended])
        await soon(lambda: not self._platform.here, "it is gone")
        shutil.rmtree(old, ignore_errors=True)

    def is_intact(self) -> bool:
        """Whether the database has no damage; a server finds its own."""
        if self._disk.url is not None:
            return True
        return [list(row.values()) for row in self.rows("PRAGMA integrity_check")] == [["ok"]]

    def rows(self, query: str) -> Sequence[Stored]:
        """The rows of a query on the database, over a separate connection."""
        return self._disk.rows(self.state, query)


async def soon(holds: Callable[[], bool], what: str, tell: Callable[[], str] = str) -> None:
    """Waits until a condition is true, on the loop's time-skipping clock; fails after PATIENCE_S of real time."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < PATIENCE_S, f"waited in vain until {what}\n{tell()}"
        await asyncio.sleep(0.5)
