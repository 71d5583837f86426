"""The state machine with the real adapters on the fake DiscordAdapterService and the fake SlackAdapterService.

Like `rules`, with fewer faults, because these platforms run in real time. Each question has a unique word and contains
mentions that must not ping.
"""

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.slack_server import FakeSlack
from tests.support.state_machine.adapter_services import AdapterService, DiscordAdapterService, SlackAdapterService
from tests.support.state_machine.faulty_disk import Disk

MOMENTS = st.sampled_from([0.0, 0.0, 0.02, 0.1, 0.4])
PINGS = "@everyone <!channel> <@U1>"
GIVEN_UP = "I was stopped"  # then the answer is a file, or the request was given up


class AdapterMachine(RuleBasedStateMachine):
    """One service on `platform`, through all its restarts."""

    def __init__(self, root: Path, platform: str) -> None:
        super().__init__()
        self._root, self._lives, self._crashes, self._sound = root, 0, 0, True
        self._runner = asyncio.Runner()
        self._disk = Disk()
        self._asked: list[tuple[str, Any]] = []
        self._deleted: set[str] = set()
        self._server = FakeDiscord() if platform == "discord" else FakeSlack()
        self._run(self._server.__aenter__())
        self._service: AdapterService = (
            DiscordAdapterService(self._server) if platform == "discord" else SlackAdapterService(self._server)
        )
        self._run(self._service.opens(self._root, self._state))
        self._run(self._asks("first"))  # backfill ignores a channel without a cursor
        self._run(self._all_answered())

    @property
    def _state(self) -> Path:
        return self._root / f"state-{self._lives}"

    @rule(moment=MOMENTS, number=st.integers(1, 3))
    def says(self, moment: float, number: int) -> None:
        """Asks one or several questions."""
        for _ in range(number):
            self._run(self._asks(f"word{len(self._asked)}"))
        self._goes_on(moment)

    @rule(which=st.integers(0, 20), moment=MOMENTS)
    def comes_again(self, which: int, moment: float) -> None:
        """Delivers a question again."""
        word, question = self._asked[which % len(self._asked)]
        if word not in self._deleted:
            self._calls(lambda: self._service.comes_again(question), moment)

    @rule(which=st.integers(0, 20), moment=MOMENTS)
    def is_deleted(self, which: int, moment: float) -> None:
        """Deletes a question."""
        word, question = self._asked[which % len(self._asked)]
        if word not in self._deleted and word != "first":
            self._deleted.add(word)
            self._run(self._service.deletes(question))
            self._goes_on(moment)

    @rule(number=st.integers(0, 5), moment=MOMENTS)
    def has_a_failing_call(self, number: int, moment: float) -> None:
        """Makes a coming call to the platform fail."""
        self._calls(lambda: self._service.fail_a_call(number), moment)

    @rule(moment=MOMENTS)
    def is_cut(self, moment: float) -> None:
        """Cuts the connection."""
        self._calls(self._service.cut, moment)

    @rule(powerless=st.booleans())
    def crashes(self, powerless: bool) -> None:
        """Kills the service, or cuts its power, and starts it on what is on the disk at this moment."""
        self._crashes += 1
        old = self._state
        self._lives += 1
        self._disk.copy(old, self._state, powerless=powerless)
        self._run(self._service.closes())
        self._run(self._service.opens(self._root, self._state))

    @rule()
    def restarts(self) -> None:
        """Stops the service with a drain, and starts it again."""
        self._run(self._service.closes())
        self._run(self._service.opens(self._root, self._state))

    def teardown(self) -> None:
        """Checks that every question has one answer and that nothing was pinged."""
        try:
            if self._sound:
                self._run(self._all_answered())
                self._is_kept()
        finally:
            self._run(self._service.closes())
            self._run(self._server.__aexit__(None, None, None))
            self._runner.close()
            shutil.rmtree(self._root, ignore_errors=True)

    def _is_kept(self) -> None:
        shown = self._service.messages()
        for word, _ in self._asked:
            answers = [text for text in shown if word in text.split()]
            assert word in self._deleted or len(answers) == 1 or self._crashes >= 2, f"{word}: {answers} of {shown}"
            assert len(answers) <= 1, f"{word}: {answers} of {shown}"
        for text in shown:
            assert sum(word in text.split() for word, _ in self._asked) <= 1, f"two questions in one answer: {text}"
        assert len(shown) <= len(self._asked), f"more answers than questions: {shown}"
        assert not self._service.pinged(), f"users were pinged: {self._service.pinged()}"

    async def _asks(self, word: str) -> None:
        question = await self._service.says(f"{PINGS} {word}")
        self._asked.append((word, question))

    async def _all_answered(self) -> None:
        async def wait() -> None:
            while missing := self._unanswered():
                self._missing = missing
                await asyncio.sleep(0.02)

        try:
            await asyncio.wait_for(wait(), 40)
        except TimeoutError:
            raise AssertionError(f"no answer to {self._missing}; there is {self._service.messages()}") from None

    def _unanswered(self) -> list[str]:
        if self._service.running.done():
            self._service.running.result()
        done = self._service.finished()
        missing = [
            word
            for word, _ in self._asked
            if word not in self._deleted and not any(word in text.split() for text in done)
        ]
        given_up = sum(GIVEN_UP in text for text in done) if self._crashes >= 2 else 0
        return missing if len(missing) > given_up else []

    def _goes_on(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))

    def _calls(self, act: Callable[[], None], seconds: float) -> None:
        async def acted() -> None:
            act()
            await asyncio.sleep(seconds)

        self._run(acted())

    def _run(self, what: Coroutine[Any, Any, Any]) -> None:
        try:
            self._runner.run(what)
        except BaseException:
            self._sound = False
            raise
