"""The rules of the state machine: everything that users, the platform and the machine may do, in any order.

Hypothesis draws numbers, never objects, because the available messages depend on how far the service is. Raises
AssertionError where a guarantee is broken.
"""

import time

from hypothesis import strategies as st
from hypothesis.stateful import rule

from bot.types.messages import (
    ConversationKey,
    IncomingAction,
    IncomingCommand,
    MessageDeleted,
    MessageEdited,
    Refused,
)
from tests.support.fakes.scripted_platform import Fault
from tests.support.fakes.team import person
from tests.support.state_machine.base_machine import BaseMachine
from tests.support.state_machine.expected_history import KEYS, PEOPLE

MOMENTS = st.sampled_from([0.0, 0.0, 0.002, 0.01, 0.03, 0.3, 2.0, 6.0])
"""Seconds on the time-skipping clock that pass after a rule."""
PLACES = st.sampled_from(KEYS)
WHO = st.sampled_from(PEOPLE)
ANY = st.integers(0, 30)
BACK = st.sampled_from([True, True, True, False])
COMMANDERS = st.sampled_from(["root", *PEOPLE])
COMMANDS = st.sampled_from(["stop", "reset", "forget", "undo", "regenerate"])
WORDS = st.sampled_from(["", "", "please", "please " * 12, "poison", "unlucky"])


class Machine(BaseMachine):
    """One run, with all rules."""

    # users

    @rule(key=PLACES, who=WHO, words=WORDS, early=st.booleans(), moment=MOMENTS)
    def says(self, key: ConversationKey, who: str, words: str, early: bool, moment: float) -> None:
        """Asks a question."""
        self._run(self._say(key, who, words, early and self._platform.redelivers))
        self._goes_on(moment)

    @rule(key=PLACES, who=WHO, number=st.integers(3, 9), moment=MOMENTS)
    def floods(self, key: ConversationKey, who: str, number: int, moment: float) -> None:
        """Asks several questions at once."""
        for _ in range(number):
            self._run(self._say(key, who, "", False))
        self._goes_on(moment)

    @rule(which=ANY, words=st.sampled_from(["again", "or else"]), moment=MOMENTS)
    def edits(self, which: int, words: str, moment: float) -> None:
        """Edits a question."""
        if question := self._question(which):
            said = question.said
            change = MessageEdited(said.key, said.message_id, said.author, f"{question.texts[-1]} {words}")
            self._expected.edited(self._next, question, change)
            self._run(self._platform.send(change))
            self._goes_on(moment)

    @rule(which=ANY, moment=MOMENTS)
    def deletes(self, which: int, moment: float) -> None:
        """Deletes a question."""
        if question := self._question(which):
            self._expected.deleted(self._next, question)
            self._run(self._platform.send(MessageDeleted(question.said.key, question.said.message_id)))
            self._goes_on(moment)

    @rule(key=PLACES, who=COMMANDERS, name=COMMANDS, what=st.sampled_from(["all", "mine", "last"]), moment=MOMENTS)
    def commands(self, key: ConversationKey, who: str, name: str, what: str, moment: float) -> None:
        """Sends a command, as an admin or as an ordinary user. `what`: of forget."""
        number, what = self._next, what if name == "forget" else ""
        if name != "regenerate":
            self._expected.commanded(number, key, person(who), name, what)
        args = {"what": what} if what else {}
        self._run(self._platform.send(IncomingCommand(key, f"c{number}", person(who), name, args, time.time())))
        self._goes_on(moment)

    @rule(which=ANY, button=ANY, who=COMMANDERS, moment=MOMENTS)
    def presses(self, which: int, button: int, who: str, moment: float) -> None:
        """Presses a shown button."""
        shown = [post for post in self._platform.posted if post.buttons]
        if shown:
            post = shown[which % len(shown)]
            kind = post.buttons[button % len(post.buttons)]
            question = self._expected.find(post.reply.key, post.reply.question_id)
            assert question is not None
            number = self._next
            self._expected.pressed(number, question, person(who), kind)
            press = IncomingAction(post.reply.key, f"a{number}", person(who), post.reply.reply_id, kind)
            self._run(self._platform.send(press))
            self._goes_on(moment)

    # the platform

    @rule(which=ANY, moment=MOMENTS)
    def comes_again(self, which: int, moment: float) -> None:
        """Delivers an event again."""
        if self._platform.said:
            number = which % len(self._platform.said)
            if not isinstance(self._platform.outcomes.get(number), Refused) and self._platform.redelivers:
                self._platform.forget_acknowledgement(number)
                self._run(self._platform.deliver(number))
                self._goes_on(moment)

    @rule(moment=MOMENTS)
    def cuts(self, moment: float) -> None:
        """Cuts the connection."""
        self._platform.cut()
        self._goes_on(moment)

    @rule(
        call=st.sampled_from(["post", "update", "find", "since"]),
        fault=st.sampled_from(list(Fault)),
        times=st.integers(1, 3),
        seconds=st.sampled_from([0.01, 1.0, 30.0]),
        moment=MOMENTS,
    )
    def fails(self, call: str, fault: Fault, times: int, seconds: float, moment: float) -> None:
        """Makes the next calls fail."""
        self._platform.fails(call, fault, times, seconds=seconds)
        self._goes_on(moment)

    @rule(key=PLACES, moment=MOMENTS)
    def is_gone(self, key: ConversationKey, moment: float) -> None:
        """Deletes a channel."""
        if not self._platform.gone:
            self._platform.gone.add(key)
            self._goes_on(moment)

    @rule(which=ANY, moment=MOMENTS)
    def is_taken_down(self, which: int, moment: float) -> None:
        """Deletes a message of the bot, as a moderator does."""
        if self._platform.posted:
            self._platform.posted[which % len(self._platform.posted)].deleted = True
            self._goes_on(moment)

    # the machine

    @rule(powerless=st.booleans(), moment=MOMENTS, back=BACK)
    def crashes(self, powerless: bool, moment: float, back: bool) -> None:
        """Kills the process or cuts its power; starts it again if `back`."""
        self._expected.blows += 1
        self._run(self._setup.is_killed(powerless=powerless))
        if back:
            self._run(self._setup.starts())
        self._goes_on(moment)

    @rule(moment=MOMENTS, back=BACK)
    def restarts(self, moment: float, back: bool) -> None:
        """Stops the service cleanly; starts it again if `back`."""
        self._run(self._setup.stops())
        if back:
            self._run(self._setup.starts())
        self._goes_on(moment)

    @rule(moment=MOMENTS)
    def starts(self, moment: float) -> None:
        """Starts the service if it is stopped."""
        if not self._setup.up:
            self._run(self._setup.starts())
        self._goes_on(moment)

    @rule(moment=MOMENTS)
    def loses_its_engine(self, moment: float) -> None:
        """Kills the engine's process."""
        if self._setup.up:
            self._setup.engine.die()
            self._goes_on(moment)

    @rule(
        what=st.sampled_from(["write", "commit", "read", "locked"]),
        after=st.integers(0, 6),
        times=st.sampled_from([1, 2, 1000]),
        moment=MOMENTS,
    )
    def disk_fails(self, what: str, after: int, times: int, moment: float) -> None:
        """Makes the disk full, broken or locked."""
        self._expected.fails = True
        if what == "locked":
            if self._setup.up:
                self._disk.lock(self._setup.state / "inhouse.db")
        else:
            self._disk.fails(what, after, times)
        self._goes_on(moment)

    @rule(moment=MOMENTS)
    def disk_heals(self, moment: float) -> None:
        """Removes all disk faults."""
        self._disk.heal()
        self._goes_on(moment)

    @rule(hours=st.sampled_from([-24, -1, -0.5]))
    def clock_jumps(self, hours: float) -> None:
        """Sets the wall clock back."""
        self._skew += hours * 3600

    @rule()
    def time_passes(self) -> None:
        """Advances the clock by more than a request may wait."""
        self._expected.waits = True
        self._late += 601
        self._goes_on(2.0)

    @rule(pace=st.sampled_from([0.0, 0.1, 1.0]))
    def changes_pace(self, pace: float) -> None:
        """Makes the model faster or slower."""
        self._pace = pace

    @rule()
    def comes_to_rest(self) -> None:
        """Removes all faults, waits until the service is idle, and checks all guarantees."""
        self._rests()
