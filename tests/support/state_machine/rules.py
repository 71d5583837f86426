"""The state machine: what may happen, in any order, and the looking afterwards.

In: Hypothesis' choices. Out: a service that is treated like that, and an AssertionError where the promise is broken.
A rule draws numbers, never things: what there is to choose from depends on how far the service has come.
"""

import time

from hypothesis import strategies as st
from hypothesis.stateful import rule

from bot.types.messages import (
    ActionKind,
    ConversationKey,
    IncomingAction,
    IncomingCommand,
    MessageDeleted,
    MessageEdited,
    Refused,
)
from tests.support.fakes.team import person
from tests.support.fakes.world import Fault
from tests.support.state_machine.base_machine import Life
from tests.support.state_machine.expected_history import KEYS, PEOPLE

MOMENTS = st.sampled_from([0.0, 0.0, 0.002, 0.01, 0.03, 0.3, 2.0, 6.0])
"""For how long the world goes on after something happened, in seconds of the hasty clock."""
PLACES = st.sampled_from(KEYS)
WHO = st.sampled_from(PEOPLE)
ANY = st.integers(0, 30)
BACK = st.sampled_from([True, True, True, False])
WORDS = st.sampled_from(["", "", "please", "please " * 12, "poison", "unlucky"])


class Machine(Life):
    """One life, with everything that may happen in it."""

    # What people do

    @rule(key=PLACES, who=WHO, words=WORDS, early=st.booleans(), moment=MOMENTS)
    def says(self, key: ConversationKey, who: str, words: str, early: bool, moment: float) -> None:
        """Somebody asks something."""
        self._run(self._say(key, who, words, early and self._world.redelivers))
        self._goes_on(moment)

    @rule(key=PLACES, who=WHO, number=st.integers(3, 9), moment=MOMENTS)
    def floods(self, key: ConversationKey, who: str, number: int, moment: float) -> None:
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
    def commands(self, key: ConversationKey, name: str, moment: float) -> None:
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
    def is_gone(self, key: ConversationKey, moment: float) -> None:
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
