"""Tests deliveries that continue after the process was killed: they find posted messages, and post none twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bot.replies.delivery import VOID
from tests.support.builders.delivery import Stage, stage_in
from tests.support.builders.storage_rows import rows
from tests.support.fakes.world import Fault


@pytest_asyncio.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """As stage_in, with short time limits."""
    monkeypatch.setattr("bot.replies.delivery._RETRY_DELAYS_S", (0.01,))
    async with stage_in(tmp_path) as opened:
        yield opened


async def killed(stage: Stage, running: asyncio.Task[list[list[str]]]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    stage.restarted()


async def test_after_a_kill_between_post_and_answer_the_message_is_found(stage: Stage) -> None:
    stage.world.fails("post", Fault.DONE_SILENT)
    running = asyncio.create_task(stage.arrives())
    stage.delivery.show([stage.frame("one")])
    await stage.shows("one")
    await killed(stage, running)
    await stage.ends("one two")
    assert await stage.arrives() == [["one", "one two"]]
    assert stage.world.calls["find"] == 1


async def test_after_a_kill_before_the_post_it_is_posted(stage: Stage) -> None:
    stage.world.fails("post", Fault.SILENT)
    running = asyncio.create_task(stage.arrives())
    stage.delivery.show([stage.frame("one")])
    await stage.world.until(lambda: bool(stage.world.struck), "it is on its way")
    await killed(stage, running)
    await stage.ends("one two")
    assert await stage.arrives() == [["one two"]]


async def test_after_a_kill_the_same_message_goes_on(stage: Stage) -> None:
    running = asyncio.create_task(stage.arrives())
    stage.delivery.show([stage.frame("one")])
    await stage.world.until(lambda: rows(stage.root, "SELECT 1 FROM outbox WHERE platform_id <> ''") != [], "stored")
    await killed(stage, running)
    stage.delivery.show([stage.frame("other")])
    await stage.ends("other words")
    shown = await stage.arrives()
    assert len(shown) == 1
    assert (shown[0][0], shown[0][-1]) == ("one", "other words")
    assert stage.world.calls["find"] == 0


async def test_after_a_kill_what_was_posted_cannot_be_called_off(stage: Stage) -> None:
    running = asyncio.create_task(stage.arrives())
    stage.delivery.show([stage.frame("one")])
    await stage.world.until(lambda: rows(stage.root, "SELECT 1 FROM outbox WHERE platform_id <> ''") != [], "stored")
    await killed(stage, running)
    running = asyncio.create_task(stage.arrives())
    stage.delivery.show([stage.frame("2nd in line")])
    await stage.shows("2nd in line")
    assert not stage.delivery.call_off()
    await stage.ends("Stopped.")
    assert [texts[-1] for texts in await running] == ["Stopped."]


async def test_an_answer_that_comes_out_shorter_the_second_time_leaves_no_old_text(stage: Stage) -> None:
    running = asyncio.create_task(stage.arrives())
    stage.delivery.show([stage.frame("one"), stage.frame("two", number=1)])
    await stage.shows("two")
    await stage.world.until(lambda: stage.state() == ["posted", "posted"], "both are stored")
    await killed(stage, running)
    await stage.ends("all of it")
    assert await stage.arrives() == [["one", "all of it"], ["two", VOID]]
    assert stage.state() == ["final", "final"]
