"""Tests delivery under faults: each reply is one message with its final text."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bot.platforms.adapter import Limits
from bot.types.errors import StorageError
from bot.types.messages import Reply
from tests.support.builders.delivery import Stage, stage_in
from tests.support.builders.storage_rows import rows
from tests.support.fakes.world import Fault


@pytest_asyncio.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """As stage_in, with short time limits."""
    monkeypatch.setattr("bot.replies.delivery._RETRY_DELAYS_S", (0.01,))
    async with stage_in(tmp_path) as opened:
        yield opened


async def test_a_reply_is_posted_once_and_then_edited(stage: Stage) -> None:
    running = asyncio.create_task(stage.arrives())
    for text in ("Hel", "Hello", "Hello wor"):
        stage.delivery.show([stage.frame(text, tail="▌")])
        await stage.shows(f"{text}▌")
    await stage.ends("Hello world")
    assert await running == [["Hel▌", "Hello▌", "Hello wor▌", "Hello world"]]
    assert stage.state() == ["final"]


async def test_what_cannot_keep_up_shows_the_newest_text_only(stage: Stage) -> None:
    running = asyncio.create_task(stage.arrives())
    stage.world.gates.hold("post")
    for number in range(100):
        stage.delivery.show([stage.frame(f"text {number}")])
        if number == 0:
            await stage.world.gates.reached("post")
    await stage.world.gates.open("post")
    await stage.shows("text 99")
    await stage.ends("the end")
    assert await running == [["text 0", "text 99", "the end"]]


async def test_frames_that_grow_are_composed_when_the_platform_takes_them_and_not_for_every_word(stage: Stage) -> None:
    composed: list[str] = []
    text = ""

    async def compose() -> list[Reply]:
        composed.append(text)
        return [stage.frame(text)]

    running = asyncio.create_task(stage.arrives())
    stage.world.gates.hold("post")
    for number in range(100):
        text += f"{number} "
        stage.delivery.grow(compose)
        if number == 0:
            await stage.world.gates.reached("post")
    await stage.world.gates.open("post")
    await stage.shows(text)
    await stage.ends("the end")
    assert await running == [["0 ", text, "the end"]]
    assert composed == ["0 ", text]


async def test_updates_of_a_reply_keep_their_distance(tmp_path: Path) -> None:
    async with stage_in(tmp_path, Limits(max_chars=2000, min_interval_s=0.1)) as stage:
        moments: list[float] = []
        update = stage.adapter.update

        async def timed(reply: Reply) -> None:
            moments.append(time.monotonic())
            await update(reply)

        stage.adapter.update = timed  # type: ignore[method-assign]  # records when it is called
        running = asyncio.create_task(stage.arrives())
        for number in range(60):
            stage.delivery.show([stage.frame(f"text {number}")])
            await asyncio.sleep(0.01)
        await stage.ends("the end")
        shown = await running
        assert shown[0][-1] == "the end"
        assert len(moments) > 2
        assert all(later - earlier > 0.08 for earlier, later in itertools.pairwise(moments))


@pytest.mark.parametrize("fault", [Fault.RETRY, Fault.LOST, Fault.CUT, Fault.BROKEN])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_post_that_goes_wrong_is_one_message_in_the_end(stage: Stage, fault: Fault, times: int) -> None:
    stage.world.fails("post", fault, times)
    await stage.ends("the answer")
    shown = await stage.arrives()
    assert len(shown) == 1
    assert shown[0][-1] == "the answer"
    assert stage.world.struck == [fault] * (1 if fault is Fault.LOST else times)
    assert stage.state() == ["final"]


@pytest.mark.parametrize("fault", [Fault.RETRY, Fault.LOST, Fault.CUT, Fault.BROKEN])
async def test_an_edit_that_goes_wrong_is_tried_again(stage: Stage, fault: Fault) -> None:
    running = asyncio.create_task(stage.arrives())
    stage.delivery.show([stage.frame("the", tail="▌")])
    await stage.shows("the▌")
    stage.world.fails("update", fault, 2)
    await stage.ends("the answer")
    shown = await running
    assert len(shown) == 1
    assert shown[0][-1] == "the answer"
    assert stage.world.struck == [fault, fault]


async def test_while_a_platform_asks_for_patience_it_is_left_alone(stage: Stage) -> None:
    stage.world.fails("post", Fault.RETRY, seconds=0.3)
    began = time.monotonic()
    await stage.ends("the answer")
    assert await stage.arrives() == [["the answer"]]
    assert stage.world.calls["post"] == 2
    assert time.monotonic() - began >= 0.3


async def test_after_an_unknown_outcome_it_looks_before_it_posts_again(stage: Stage) -> None:
    stage.world.fails("post", Fault.LOST)
    stage.world.fails("find", Fault.RETRY, 2)
    await stage.ends("the answer")
    assert [texts[-1] for texts in await stage.arrives()] == ["the answer"]
    assert stage.world.calls["post"] == 1
    assert stage.world.calls["find"] == 3


async def test_an_edit_that_is_refused_half_way_costs_no_text(stage: Stage) -> None:
    running = asyncio.create_task(stage.arrives())
    stage.delivery.show([stage.frame("one")])
    await stage.shows("one")
    stage.world.fails("update", Fault.REJECTED)
    stage.delivery.show([stage.frame("one two")])
    await stage.world.until(lambda: bool(stage.world.struck), "it is refused")
    await stage.ends("one two three")
    assert await running == [["one", "one two three"]]


async def test_a_final_edit_that_is_refused_comes_as_a_message_once(stage: Stage) -> None:
    running = asyncio.create_task(stage.arrives())
    stage.delivery.show([stage.frame("one")])
    await stage.shows("one")
    stage.world.fails("update", Fault.REJECTED, 100, only=lambda reply: reply.platform_id == "post-0")
    await stage.ends("one two three")
    assert await running == [["one"], ["one two three"]]
    assert stage.state() == ["final"]
    assert rows(stage.root, "SELECT platform_id FROM outbox") == [("post-1",)]


@pytest.mark.parametrize("fault", [Fault.REJECTED, Fault.GONE])
async def test_where_nothing_may_be_posted_it_is_tried_once(stage: Stage, fault: Fault) -> None:
    stage.world.fails("post", fault, 100)
    running = asyncio.create_task(stage.arrives())
    stage.delivery.show([stage.frame("one")])
    await stage.world.until(lambda: bool(stage.world.struck), "it is refused")
    stage.delivery.show([stage.frame("one two")])
    await stage.ends("one two three", "four")
    assert await running == []
    assert stage.world.calls["post"] == 1
    assert stage.state() == ["dropped", "dropped"]


async def test_a_message_that_somebody_took_away_stays_away(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    running = asyncio.create_task(stage.arrives())
    stage.delivery.show([stage.frame("one")])
    await stage.shows("one")
    stage.world.posted[0].deleted = True
    await stage.ends("one two", "three")
    assert await running == [["one"]]
    assert stage.state() == ["dropped", "dropped"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_parts_are_posted_in_their_order_whatever_happens_to_the_first(stage: Stage) -> None:
    stage.world.fails("post", Fault.LOST)
    stage.world.fails("post", Fault.RETRY)
    stage.world.fails("post", Fault.CUT)
    await stage.ends("one", "two", "three")
    assert [texts[-1] for texts in await stage.arrives()] == ["one", "two", "three"]


@pytest.mark.parametrize("method", ["posting", "posted", "mark_delivered"])
async def test_when_storage_fails_for_a_moment_it_is_still_one_message(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    real, failures = getattr(stage.storage.outbox, method), [StorageError("locked"), StorageError("locked")]

    async def failing(*args: object, **more: object) -> None:
        if failures:
            raise failures.pop()
        await real(*args, **more)

    monkeypatch.setattr(stage.storage.outbox, method, failing)
    await stage.ends("the answer")
    shown = await stage.arrives()
    assert len(shown) == 1
    assert shown[0][-1] == "the answer"
    assert stage.state() == ["final"]
