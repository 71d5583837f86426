"""Base of the state machine: setup, settling and teardown of a service in a directory. `rules` has its rules.

Raises AssertionError where a guarantee is broken.
"""

import asyncio
import shutil
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from bot.types.engine import EngineRequest
from bot.types.messages import ConversationKey
from tests.support.builders.service import MACHINE
from tests.support.state_machine.expected_history import ExpectedHistory, Question
from tests.support.state_machine.faulty_disk import Disk
from tests.support.state_machine.invariants import Invariants
from tests.support.state_machine.recording_platform import RecordingPlatform
from tests.support.state_machine.service import PER_USER, QUEUE_SIZE, MachineSetup, soon
from tests.support.state_machine.time_skipping_loop import TimeSkippingLoop


class BaseMachine(RuleBasedStateMachine):
    """One run of the state machine with a service in `root`."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        super().__init__()
        self._root = root
        self._stack = ExitStack()
        self._loop = self._stack.enter_context(asyncio.Runner(loop_factory=TimeSkippingLoop))
        self._errors: list[str] = []
        self._loop.get_loop().set_exception_handler(self._hears_of)
        self._skew = self._late = self._pace = 0.0
        real = time.time
        self._stack.enter_context(patch("time.time", lambda: real() + self._skew))
        self._stack.enter_context(patch("bot.models.installed_models.probe", return_value=MACHINE))
        self._disk = disk or Disk()
        self._stack.enter_context(self._disk.under())
        self._sound = True
        self._began = False

    @initialize(redelivers=st.booleans(), pace=st.sampled_from([0.0, 0.1, 1.0]))
    def begins(self, redelivers: bool, pace: float) -> None:
        """Starts the service for the first time."""
        self._platform = RecordingPlatform(redelivers=redelivers)
        self._run(self._platform.__aenter__())
        self._expected = ExpectedHistory(self._platform, time.time())
        self._pace = pace
        self._setup = MachineSetup(
            self._root,
            self._platform,
            self._disk,
            clock=lambda: time.monotonic() + self._late,
            pace=lambda: self._pace,
            reading=self._reads,
            dying=self._dies,
        )
        self._invariants = Invariants(self._expected, self._platform, self._setup)
        self._began = True
        self._run(self._setup.starts())

    def teardown(self) -> None:
        """Checks all guarantees at the end of the run."""
        try:
            if self._sound and self._began:
                self._rests()
        finally:
            self._sound = False
            if self._began:
                self._run(self._setup.is_killed())
                self._run(self._platform.__aexit__())
            self._stack.close()
            shutil.rmtree(self._root, ignore_errors=True)

    def _rests(self) -> None:
        self._platform.forgets_faults()
        self._disk.heal()
        self._pace = 0.0
        self._run(self._settle())
        self._invariants.kept()

    async def _settle(self) -> None:
        await self._up()
        self._platform.cut()
        await asyncio.sleep(1.0)  # time to notice the cut
        await soon(lambda: self._platform.here and self._setup.caught_up, "what was missed is read back")

        def open_() -> list[str]:
            found = [f"event {n}: {self._platform.said[n]}" for n in self._platform.unacknowledged()]
            found += ["an event is being handled"] * self._setup.handling
            for query in (
                "SELECT * FROM requests WHERE status IN ('waiting', 'running')",
                "SELECT * FROM outbox WHERE state = 'ready'",
            ):
                found += [str(dict(row)) for row in self._setup.rows(query)]
            return found

        await soon(lambda: self._setup.up and not open_(), "everything has its end", lambda: "\n".join(open_()))
        await asyncio.sleep(1.0)

    async def _up(self) -> None:
        while not self._setup.up:
            await self._setup.starts()

    async def _say(self, key: ConversationKey, who: str, words: str, early: bool) -> None:
        said = self._expected.message(key, who, words, early=early, addressed=True)
        place = f"platform = '{key.platform}' AND workspace = '{key.workspace}' AND channel = '{key.channel}'"
        heard = self._setup.rows(f"SELECT * FROM cursors WHERE {place} AND thread = '{key.thread}'")
        well = self._setup.up and bool(self._setup.engine.loaded)
        self._expected.asked(self._next, said, heard_before=bool(heard), well=well)
        await self._platform.send(said)

    def _question(self, which: int) -> Question | None:
        return self._expected.questions[which % len(self._expected.questions)] if self._expected.questions else None

    @property
    def _next(self) -> int:
        return len(self._platform.said)

    def _reads(self, request: EngineRequest) -> None:
        try:
            self._invariants.read(request)
        except AssertionError as error:
            self._errors.append(str(error))
            raise

    def _hears_of(self, _: object, what: dict[str, Any]) -> None:
        if "was destroyed" not in what["message"]:  # tasks of a killed service are destroyed while pending
            self._errors.append(str(what))

    def _dies(self) -> None:
        self._expected.blows += 1

    def _goes_on(self, seconds: float) -> None:
        if seconds:
            self._run(asyncio.sleep(seconds))
            if self._setup.up and not self._disk.ill:
                self._invariants.bounds(QUEUE_SIZE, PER_USER, 3)

    def _run(self, what: Coroutine[Any, Any, Any]) -> None:
        try:
            self._loop.run(what)
            assert not self._errors, "\n".join(self._errors)
        except BaseException:
            self._sound = False
            raise
