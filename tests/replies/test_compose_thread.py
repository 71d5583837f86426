"""Tests rendering that is slow: the event loop continues, and after a time limit plain text is shown."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bot.platforms.adapter import Dialect, Limits
from bot.replies.compose_thread import ComposeThread
from bot.replies.links import KnownLinks
from bot.replies.markdown import render
from bot.types.messages import FinishReason
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.service"]

BOX = "```\n{}\n```"


class Gate:
    """The real rendering, but text with the word SLOW waits until the gate is open."""

    def __init__(self) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        self.rendered = render
        self.calls = 0

    def render(self, text: str, dialect: Dialect, links: KnownLinks) -> str:
        if "SLOW" in text:
            self.calls += 1
            self.reached.set()
            assert self.opened.wait(20)
        return self.rendered(text, dialect, links)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Installs a Gate in the renderer, and opens it at the end."""
    made = Gate()
    monkeypatch.setattr("bot.replies.renderer.render", made.render)
    yield made
    made.opened.set()


def composing() -> int:
    """The number of rendering threads."""
    return sum(thread.name == "compose" for thread in threading.enumerate())


async def test_while_a_frame_is_composed_others_are_answered(setup: ServiceSetup, team: Team, gate: Gate) -> None:
    setup.engine.answers("hello", "SLOW words")
    await team.says("ana", "hello")
    await setup.platform.until(gate.reached.is_set, "a frame is being composed")
    other = team.elsewhere(channel="other")
    assert (await other.asks("ben", "and me?")).text == "You said: and me?"
    assert not team.replies_to("hello")
    gate.opened.set()
    assert (await team.reply_to("hello")).text == "SLOW words"


async def test_text_that_takes_too_long_is_shown_plainly_by_one_thread_and_told_once(
    setup: ServiceSetup, team: Team, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bot.replies.compose_thread.BUDGET_S", 0.05)
    setup.engine.answers("hello", "SLOW *words* and https://bad.example " + "more " * 29 + "more")
    setup.platform.gates.hold("hello/20")
    await team.says("ana", "hello")
    shown = await team.sees("hello", "SLOW")
    await team.sees("hello", "more more more")
    assert composing() == 1
    await setup.platform.gates.open("hello/20")
    answer = await team.reply_to("hello")
    assert answer.parts == (shown,)
    assert answer.reason is FinishReason.STOP
    assert answer.text == BOX.format("SLOW *words* and https://bad.example " + "more " * 29 + "more")
    assert gate.calls == 1
    assert [each.getMessage() for each in caplog.records if "plain text" in each.message] == [
        "The rendering of an answer took too long; it is shown as plain text"
    ]
    before = list(shown.history)
    gate.opened.set()
    assert (await team.asks("ana", "and now?")).text == "You said: and now?"
    assert shown.history == before, "a late frame was shown"


async def test_the_final_text_is_rendered_once_the_slow_frame_has_returned(
    setup: ServiceSetup, team: Team, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.replies.compose_thread.BUDGET_S", 0.05)
    setup.engine.answers("hello", "SLOW *words* of it")
    setup.platform.gates.hold("hello/2")
    await team.says("ana", "hello")
    await team.sees("hello", "```")
    monkeypatch.setattr("bot.replies.compose_thread.BUDGET_S", 20.0)
    gate.opened.set()
    await setup.platform.gates.open("hello/2")
    assert (await team.reply_to("hello")).text == "SLOW *words* of it"


async def test_text_whose_rendering_fails_is_shown_plainly(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(text: str, dialect: Dialect, links: KnownLinks) -> str:
        raise RecursionError(f"in {text}")

    monkeypatch.setattr("bot.replies.renderer.render", broken)
    assert (await team.asks("ana", "hello")).text == BOX.format("You said: hello")
    told = [each for each in caplog.records if "plain text" in each.message]
    assert [each.message for each in told] == [
        "The rendering of an answer failed (RecursionError); it is shown as plain text"
    ]
    assert "hello" not in caplog.text


async def test_plain_text_comes_in_parts_and_a_file(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.replies.compose_thread.BUDGET_S", 0.05)
    async with run_service(tmp_path, limits=Limits(200, 0.0, attach_over=500, cursor=" ▌")) as setup:
        text = " ".join(["SLOW", *(f"word-{number}" for number in range(200))])
        setup.engine.answers("long", text)
        answer = await setup.team.asks("ana", "long")
        assert len(answer.parts) > 2
        assert all(len(shown) <= 200 for part in answer.parts for shown in part.history)
        file = answer.parts[-1].reply.attachment
        assert file is not None
        assert file.text == text
        gate.opened.set()


async def test_a_stop_before_anything_is_shown_shows_only_the_end(setup: ServiceSetup, team: Team, gate: Gate) -> None:
    setup.engine.answers("hello", "SLOW words")
    setup.platform.gates.hold("hello/1")
    await team.says("ana", "hello")
    await setup.platform.until(gate.reached.is_set, "a frame is being composed")
    assert await team.told("stop", who="ana") == "Stopped."
    gate.opened.set()
    answer = await team.reply_to("hello")
    assert (answer.text, answer.reason) == ("SLOW", FinishReason.ABORT)


async def test_a_place_in_line_is_composed_without_a_thread(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.platform.gates.hold("one/0")
    await team.says("ana", "one")
    await setup.platform.gates.reached("one/0")
    threads: list[object] = []
    run = ComposeThread.run

    async def recorded(self: ComposeThread, compose: Callable[[], object]) -> object:
        threads.append(compose)
        return await run(self, compose)

    monkeypatch.setattr(ComposeThread, "run", recorded)
    await team.says("ben", "two")
    await team.sees("two", "1st in line")
    assert not threads
    await setup.platform.gates.open("one/0")
    assert (await team.reply_to("two")).text == "You said: two"
    assert threads


async def test_calls_come_one_after_the_other_within_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    thread, first, second = ComposeThread(), threading.Event(), threading.Event()
    began: list[str] = []
    ended: list[str] = []

    def work(name: str, opened: threading.Event) -> str:
        assert len(began) == len(ended), "another call still runs"
        began.append(name)
        assert opened.wait(20)
        ended.append(name)
        return name

    one = asyncio.create_task(thread.run(lambda: work("one", first)))
    await asyncio.sleep(0)
    two = asyncio.create_task(thread.run(lambda: work("two", second)))
    second.set()
    await asyncio.sleep(0)
    first.set()
    assert (await one, await two) == ("one", "two")
    assert began == ["one", "two"]
    monkeypatch.setattr("bot.replies.compose_thread.BUDGET_S", 0.02)
    first.clear()
    for name in ("three", "four"):
        with pytest.raises(TimeoutError):
            await thread.run(lambda name=name: work(name, first))  # type: ignore[misc]
    assert began == ["one", "two", "three"]
    first.set()
