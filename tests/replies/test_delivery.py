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
from tests.support.builders.delivery import DeliverySetup, run_delivery
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_platform import Fault


@pytest_asyncio.fixture
async def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DeliverySetup]:
    """As run_delivery, with short time limits."""
    monkeypatch.setattr("bot.replies.delivery.RETRY_DELAYS_S", (0.01,))
    async with run_delivery(tmp_path) as opened:
        yield opened


async def test_a_reply_is_posted_once_and_then_edited(setup: DeliverySetup) -> None:
    running = asyncio.create_task(setup.arrives())
    for text in ("Hel", "Hello", "Hello wor"):
        setup.delivery.show([setup.frame(text, tail="▌")])
        await setup.shows(f"{text}▌")
    await setup.ends("Hello world")
    assert await running == [["Hel▌", "Hello▌", "Hello wor▌", "Hello world"]]
    assert setup.state() == ["final"]


async def test_what_cannot_keep_up_shows_the_newest_text_only(setup: DeliverySetup) -> None:
    running = asyncio.create_task(setup.arrives())
    setup.platform.gates.hold("post")
    for number in range(100):
        setup.delivery.show([setup.frame(f"text {number}")])
        if number == 0:
            await setup.platform.gates.reached("post")
    await setup.platform.gates.open("post")
    await setup.shows("text 99")
    await setup.ends("the end")
    assert await running == [["text 0", "text 99", "the end"]]


async def test_frames_that_grow_are_composed_when_the_platform_takes_them_and_not_for_every_word(
    setup: DeliverySetup,
) -> None:
    composed: list[str] = []
    text = ""

    async def compose() -> list[Reply]:
        composed.append(text)
        return [setup.frame(text)]

    running = asyncio.create_task(setup.arrives())
    setup.platform.gates.hold("post")
    for number in range(100):
        text += f"{number} "
        setup.delivery.grow(compose)
        if number == 0:
            await setup.platform.gates.reached("post")
    await setup.platform.gates.open("post")
    await setup.shows(text)
    await setup.ends("the end")
    assert await running == [["0 ", text, "the end"]]
    assert composed == ["0 ", text]


async def test_updates_of_a_reply_keep_their_distance(tmp_path: Path) -> None:
    async with run_delivery(tmp_path, Limits(max_chars=2000, min_interval_s=0.1)) as setup:
        moments: list[float] = []
        update = setup.adapter.update

        async def timed(reply: Reply) -> None:
            moments.append(time.monotonic())
            await update(reply)

        setup.adapter.update = timed  # type: ignore[method-assign]  # records when it is called
        running = asyncio.create_task(setup.arrives())
        for number in range(60):
            setup.delivery.show([setup.frame(f"text {number}")])
            await asyncio.sleep(0.01)
        await setup.ends("the end")
        shown = await running
        assert shown[0][-1] == "the end"
        assert len(moments) > 2
        assert all(later - earlier > 0.08 for earlier, later in itertools.pairwise(moments))


@pytest.mark.parametrize("fault", [Fault.RETRY, Fault.LOST, Fault.CUT, Fault.BROKEN])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_post_that_goes_wrong_is_one_message_in_the_end(setup: DeliverySetup, fault: Fault, times: int) -> None:
    setup.platform.fails("post", fault, times)
    await setup.ends("the answer")
    shown = await setup.arrives()
    assert len(shown) == 1
    assert shown[0][-1] == "the answer"
    assert setup.platform.struck == [fault] * (1 if fault is Fault.LOST else times)
    assert setup.state() == ["final"]


@pytest.mark.parametrize("fault", [Fault.RETRY, Fault.LOST, Fault.CUT, Fault.BROKEN])
async def test_an_edit_that_goes_wrong_is_tried_again(setup: DeliverySetup, fault: Fault) -> None:
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("the", tail="▌")])
    await setup.shows("the▌")
    setup.platform.fails("update", fault, 2)
    await setup.ends("the answer")
    shown = await running
    assert len(shown) == 1
    assert shown[0][-1] == "the answer"
    assert setup.platform.struck == [fault, fault]


async def test_while_a_platform_asks_to_wait_it_is_not_called(setup: DeliverySetup) -> None:
    setup.platform.fails("post", Fault.RETRY, seconds=0.3)
    began = time.monotonic()
    await setup.ends("the answer")
    assert await setup.arrives() == [["the answer"]]
    assert setup.platform.calls["post"] == 2
    assert time.monotonic() - began >= 0.3


async def test_after_an_unknown_outcome_it_looks_before_it_posts_again(setup: DeliverySetup) -> None:
    setup.platform.fails("post", Fault.LOST)
    setup.platform.fails("find", Fault.RETRY, 2)
    await setup.ends("the answer")
    assert [texts[-1] for texts in await setup.arrives()] == ["the answer"]
    assert setup.platform.calls["post"] == 1
    assert setup.platform.calls["find"] == 3


async def test_an_edit_that_is_refused_half_way_costs_no_text(setup: DeliverySetup) -> None:
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("one")])
    await setup.shows("one")
    setup.platform.fails("update", Fault.REJECTED)
    setup.delivery.show([setup.frame("one two")])
    await setup.platform.until(lambda: bool(setup.platform.struck), "it is refused")
    await setup.ends("one two three")
    assert await running == [["one", "one two three"]]


async def test_a_final_edit_that_is_refused_comes_as_a_message_once(setup: DeliverySetup) -> None:
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("one")])
    await setup.shows("one")
    setup.platform.fails("update", Fault.REJECTED, 100, only=lambda reply: reply.platform_id == "post-0")
    await setup.ends("one two three")
    assert await running == [["one"], ["one two three"]]
    assert setup.state() == ["final"]
    assert rows(setup.root, "SELECT platform_id FROM outbox") == [("post-1",)]


@pytest.mark.parametrize("fault", [Fault.REJECTED, Fault.GONE])
async def test_where_nothing_may_be_posted_it_is_tried_once(setup: DeliverySetup, fault: Fault) -> None:
    setup.platform.fails("post", fault, 100)
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("one")])
    await setup.platform.until(lambda: bool(setup.platform.struck), "it is refused")
    setup.delivery.show([setup.frame("one two")])
    await setup.ends("one two three", "four")
    assert await running == []
    assert setup.platform.calls["post"] == 1
    assert setup.state() == ["dropped", "dropped"]


async def test_a_message_that_a_user_deleted_is_not_posted_again(
    setup: DeliverySetup, caplog: pytest.LogCaptureFixture
) -> None:
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("one")])
    await setup.shows("one")
    setup.platform.posted[0].deleted = True
    await setup.ends("one two", "three")
    assert await running == [["one"]]
    assert setup.state() == ["dropped", "dropped"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_parts_are_posted_in_their_order_whatever_happens_to_the_first(setup: DeliverySetup) -> None:
    setup.platform.fails("post", Fault.LOST)
    setup.platform.fails("post", Fault.RETRY)
    setup.platform.fails("post", Fault.CUT)
    await setup.ends("one", "two", "three")
    assert [texts[-1] for texts in await setup.arrives()] == ["one", "two", "three"]


@pytest.mark.parametrize("method", ["posting", "posted", "mark_delivered"])
async def test_when_storage_fails_for_a_moment_it_is_still_one_message(
    setup: DeliverySetup, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    real, failures = getattr(setup.storage.outbox, method), [StorageError("locked"), StorageError("locked")]

    async def failing(*args: object, **more: object) -> None:
        if failures:
            raise failures.pop()
        await real(*args, **more)

    monkeypatch.setattr(setup.storage.outbox, method, failing)
    await setup.ends("the answer")
    shown = await setup.arrives()
    assert len(shown) == 1
    assert shown[0][-1] == "the answer"
    assert setup.state() == ["final"]
