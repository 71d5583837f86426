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
from tests.support.state_machine.expected_history import Book, Question
from tests.support.state_machine.faulty_disk import Disk
from tests.support.state_machine.invariants import Promise
from tests.support.state_machine.scripted_platform import Witness
from tests.support.state_machine.service import PER_USER, QUEUE_SIZE, House, soon
from tests.support.state_machine.time_skipping_loop import HastyLoop


class Life(RuleBasedStateMachine):
    """One run of the state machine with a service in `root`."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self._stack = ExitStack()
        self._loop = self._stack.enter_context(asyncio.Runner(loop_factory=HastyLoop))
        self._troubles: list[str] = []
        self._loop.get_loop().set_exception_handler(self._hears_of)
        self._skew = self._late = self._pace = 0.0
        real = time.time
        self._stack.enter_context(patch("time.time", lambda: real() + self._skew))
        self._stack.enter_context(patch("bot.models.installed_models.probe", return_value=MACHINE))
        self._disk = Disk()
        self._stack.enter_context(self._disk.under())
        self._sound = True

    @initialize(redelivers=st.booleans(), pace=st.sampled_from([0.0, 0.1, 1.0]))
    def begins(self, redelivers: bool, pace: float) -> None:
        """Starts the service for the first time."""
        self._world = Witness(redelivers=redelivers)
        self._run(self._world.__aenter__())
        self._book = Book(self._world, time.time())
        self._pace = pace
        self._house = House(
            self._root,
            self._world,
            self._disk,
            clock=lambda: time.monotonic() + self._late,
            pace=lambda: self._pace,
            reading=self._reads,
            dying=self._dies,
        )
        self._promise = Promise(self._book, self._world, self._house)
        self._run(self._house.starts())

    def teardown(self) -> None:
        """Checks all guarantees at the end of the run."""
        try:
            if self._sound and hasattr(self, "_promise"):
                self._rests()
        finally:
            self._sound = False
            if hasattr(self, "_world"):
                self._run(self._house.is_killed())
                self._run(self._world.__aexit__())
            self._stack.close()
            shutil.rmtree(self._root, ignore_errors=True)

    def _rests(self) -> None:
        self._world.forgets_faults()
        self._disk.heal()
        self._pace = 0.0
        self._run(self._settle())
        self._promise.kept()

    async def _settle(self) -> None:
        await self._up()
        self._world.cut()
        await asyncio.sleep(1.0)  # time to notice the cut
        await soon(lambda: self._world.here and self._house.caught_up, "what was missed is read back")

        def open_() -> list[str]:
            found = [f"event {n}: {self._world.said[n]}" for n in self._world.unacknowledged()]
            found += ["an event is being handled"] * self._house.handling
            for query in (
                "SELECT * FROM requests WHERE status IN ('waiting', 'running')",
                "SELECT * FROM outbox WHERE state = 'ready'",
            ):
                found += [str(dict(row)) for row in self._house.rows(query)]
            return found

        await soon(lambda: self._house.up and not open_(), "everything has its end", lambda: "\n".join(open_()))
        await asyncio.sleep(1.0)

    async def _up(self) -> None:
        while not self._house.up:
            await self._house.starts()

    async def _say(self, key: ConversationKey, who: str, words: str, early: bool) -> None:
        said = self._book.message(key, who, words, early=early, addressed=True)
        place = f"platform = '{key.platform}' AND workspace = '{key.workspace}' AND channel = '{key.channel}'"
        heard = self._house.rows(f"SELECT * FROM cursors WHERE {place} AND thread = '{key.thread}'")
        well = self._house.up and bool(self._house.engine.loaded)
        self._book.asked(self._next, said, heard_before=bool(heard), well=well)
        await self._world.send(said)

    def _question(self, which: int) -> Question | None:
        return self._book.questions[which % len(self._book.questions)] if self._book.questions else None

    @property
    def _next(self) -> int:
        return len(self._world.said)

    def _reads(self, request: EngineRequest) -> None:
        try:
            self._promise.read(request)
        except AssertionError as error:
            self._troubles.append(str(error))
            raise

    def _hears_of(self, _: object, what: dict[str, Any]) -> None:
        if "was destroyed" not in what["message"]:  # tasks of a killed service are destroyed while pending
            self._troubles.append(str(what))

    def _dies(self) -> None:
        self._book.blows += 1

    def _goes_on(self, seconds: float) -> None:
        if seconds:
            self._run(asyncio.sleep(seconds))
            if self._house.up and not self._disk.ill:
                self._promise.bounds(QUEUE_SIZE, PER_USER, 3)

    def _run(self, what: Coroutine[Any, Any, Any]) -> None:
        try:
            self._loop.run(what)
            assert not self._troubles, "\n".join(self._troubles)
        except BaseException:
            self._sound = False
            raise
