"""The state machine: what may happen, in any order, and the looking afterwards.

In: Hypothesis' choices. Out: a service that is treated like that, and an AssertionError where the promise is broken.
A rule draws numbers, never things: what there is to choose from depends on how far the service has come.
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
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from bot.messages import ActionKind, IncomingAction, IncomingCommand, MessageDeleted, MessageEdited, Refused
from tests.fakes.team import person
from tests.fakes.world import Fault
from tests.machine.book import KEYS, PEOPLE, Book, Question
from tests.machine.disk import Disk
from tests.machine.hasty import HastyLoop
from tests.machine.house import PER_USER, QUEUE_SIZE, House, soon
from tests.machine.platform import Witness
from tests.machine.promise import Promise
from tests.service_harness import MACHINE

MOMENTS = st.sampled_from([0.0, 0.0, 0.002, 0.01, 0.03, 0.3, 2.0, 6.0])
"""For how long the world goes on after something happened, in seconds of the hasty clock."""
PLACES = st.sampled_from(KEYS)
WHO = st.sampled_from(PEOPLE)
ANY = st.integers(0, 30)
BACK = st.sampled_from([True, True, True, False])
WORDS = st.sampled_from(["", "", "please", "please " * 12, "poison", "unlucky"])


class Machine(RuleBasedStateMachine):
    """One life of a house in `root`."""

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
        self._stack.enter_context(patch("bot.models.shelf.probe", return_value=MACHINE))
        self._disk = Disk()
        self._stack.enter_context(self._disk.under())
        self._sound = True

    @initialize(redelivers=st.booleans(), pace=st.sampled_from([0.0, 0.1, 1.0]))
    def begins(self, redelivers: bool, pace: float) -> None:
        """The first start."""
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

    # What people do

    @rule(key=PLACES, who=WHO, words=WORDS, early=st.booleans(), moment=MOMENTS)
    def says(self, key: Any, who: str, words: str, early: bool, moment: float) -> None:
        """Somebody asks something."""
        self._run(self._say(key, who, words, early and self._world.redelivers))
        self._goes_on(moment)

    @rule(key=PLACES, who=WHO, number=st.integers(3, 9), moment=MOMENTS)
    def floods(self, key: Any, who: str, number: int, moment: float) -> None:
        """Somebody asks much at once."""
        for _ in range(number):
            self._run(self._say(key, who, "", False))
        self._goes_on(moment)

    @rule(which=ANY, words=st.sampled_from(["again", "or else"]), moment=MOMENTS)
    def edits(self, which: int, words: str, moment: float) -> None:
        """Somebody changes a question."""
        if question := self._question(which):
            said = question.said
            change = MessageEdited(said.key, said.message_id, said.author, f"{question.texts[-1]} {words}")
            self._book.edited(self._next, question, change)
            self._run(self._world.send(change))
            self._goes_on(moment)

    @rule(which=ANY, moment=MOMENTS)
    def deletes(self, which: int, moment: float) -> None:
        """Somebody takes a question away."""
        if question := self._question(which):
            self._book.deleted(self._next, question)
            self._run(self._world.send(MessageDeleted(question.said.key, question.said.message_id)))
            self._goes_on(moment)

    @rule(key=PLACES, name=st.sampled_from(["stop", "reset", "forget", "undo", "regenerate"]), moment=MOMENTS)
    def commands(self, key: Any, name: str, moment: float) -> None:
        """A moderator gives a command."""
        number = self._next
        if name != "regenerate":
            self._book.swept(number, key, name)
        self._run(self._world.send(IncomingCommand(key, f"c{number}", person("root"), name, {}, time.time())))
        self._goes_on(moment)

    @rule(which=ANY, button=ANY, moment=MOMENTS)
    def presses(self, which: int, button: int, moment: float) -> None:
        """Somebody presses a button that is there."""
        shown = [post for post in self._world.posted if post.buttons]
        if shown:
            post = shown[which % len(shown)]
            kind = post.buttons[button % len(post.buttons)]
            question = self._book.find(post.reply.key, post.reply.question_id)
            assert question is not None
            if kind is ActionKind.STOP:
                question.ends.append(self._next)
            number = self._next
            self._run(
                self._world.send(
                    IncomingAction(post.reply.key, f"a{number}", person("root"), post.reply.reply_id, kind)
                )
            )
            self._goes_on(moment)

    # What the platform does

    @rule(which=ANY, moment=MOMENTS)
    def comes_again(self, which: int, moment: float) -> None:
        """An event is delivered once more."""
        if self._world.said:
            number = which % len(self._world.said)
            if not isinstance(self._world.outcomes.get(number), Refused) and self._world.redelivers:
                self._world.forget_acknowledgement(number)
                self._run(self._world._deliver(number))
                self._goes_on(moment)

    @rule(moment=MOMENTS)
    def cuts(self, moment: float) -> None:
        """The connection is lost."""
        self._world.cut()
        self._goes_on(moment)

    @rule(
        call=st.sampled_from(["post", "update", "find", "since"]),
        fault=st.sampled_from(list(Fault)),
        times=st.integers(1, 3),
        seconds=st.sampled_from([0.01, 1.0, 30.0]),
        moment=MOMENTS,
    )
    def fails(self, call: str, fault: Fault, times: int, seconds: float, moment: float) -> None:
        """The next calls go wrong."""
        self._world.fails(call, fault, times, seconds=seconds)
        self._goes_on(moment)

    @rule(key=PLACES, moment=MOMENTS)
    def is_gone(self, key: Any, moment: float) -> None:
        """A channel is deleted."""
        if not self._world.gone:
            self._world.gone.add(key)
            self._goes_on(moment)

    @rule(which=ANY, moment=MOMENTS)
    def is_taken_down(self, which: int, moment: float) -> None:
        """A moderator deletes a message of the bot's."""
        if self._world.posted:
            self._world.posted[which % len(self._world.posted)].deleted = True
            self._goes_on(moment)

    # What the machine underneath does

    @rule(powerless=st.booleans(), moment=MOMENTS, back=BACK)
    def crashes(self, powerless: bool, moment: float, back: bool) -> None:
        """The process is killed, or the power is lost; after a while it is started again."""
        self._book.blows += 1
        self._run(self._house.is_killed(powerless=powerless))
        if back:
            self._run(self._house.starts())
        self._goes_on(moment)

    @rule(moment=MOMENTS, back=BACK)
    def restarts(self, moment: float, back: bool) -> None:
        """A clean stop; after a while it is started again."""
        self._run(self._house.stops())
        if back:
            self._run(self._house.starts())
        self._goes_on(moment)

    @rule(moment=MOMENTS)
    def starts(self, moment: float) -> None:
        """Somebody starts it, if it does not run."""
        if not self._house.up:
            self._run(self._house.starts())
        self._goes_on(moment)

    @rule(moment=MOMENTS)
    def loses_its_engine(self, moment: float) -> None:
        """The engine's process dies."""
        if self._house.up:
            self._house.engine.die()
            self._goes_on(moment)

    @rule(
        what=st.sampled_from(["write", "commit", "read", "locked"]),
        after=st.integers(0, 6),
        times=st.sampled_from([1, 2, 1000]),
        moment=MOMENTS,
    )
    def disk_fails(self, what: str, after: int, times: int, moment: float) -> None:
        """The disk is full, broken or locked."""
        self._book.fails = True
        if what == "locked":
            if self._house.up:
                self._disk.lock(self._house.state / "inhouse.db")
        else:
            self._disk.fails(what, after, times)
        self._goes_on(moment)

    @rule(moment=MOMENTS)
    def disk_heals(self, moment: float) -> None:
        """Somebody frees some space."""
        self._disk.heal()
        self._goes_on(moment)

    @rule(hours=st.sampled_from([-24, -1, -0.5]))
    def clock_jumps(self, hours: float) -> None:
        """The wall clock is set back."""
        self._skew += hours * 3600

    @rule()
    def time_passes(self) -> None:
        """Longer than a request may wait."""
        self._book.waits = True
        self._late += 601
        self._goes_on(2.0)

    @rule(pace=st.sampled_from([0.0, 0.1, 1.0]))
    def changes_pace(self, pace: float) -> None:
        """The model gets faster or slower."""
        self._pace = pace

    @rule()
    def comes_to_rest(self) -> None:
        """Everything is well again, and a while passes."""
        self._rests()

    def teardown(self) -> None:
        """The end of the life: the promise was kept."""
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
        await asyncio.sleep(1.0)  # it has noticed
        await soon(lambda: self._world.here and self._adapter_caught_up(), "what was missed is read back")

        def open_() -> list[str]:
            found = [f"event {n}: {self._world.said[n]}" for n in self._world.unacknowledged()]
            for query in (
                "SELECT * FROM requests WHERE status IN ('waiting', 'running')",
                "SELECT * FROM outbox WHERE state = 'ready'",
            ):
                found += [str(dict(row)) for row in self._house.rows(query)]
            return found

        await soon(lambda: self._house.up and not open_(), "everything has its end", lambda: "\n".join(open_()))
        await asyncio.sleep(1.0)

    def _adapter_caught_up(self) -> bool:
        return self._house._adapter.caught_up.is_set()

    async def _up(self) -> None:
        while not self._house.up:
            await self._house.starts()

    async def _say(self, key: Any, who: str, words: str, early: bool) -> None:
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

    def _reads(self, request: Any) -> None:
        try:
            self._promise.read(request)
        except AssertionError as error:
            self._troubles.append(str(error))
            raise

    def _hears_of(self, _: object, what: dict[str, Any]) -> None:
        if "was destroyed" not in what["message"]:  # that is what ends with a process
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
