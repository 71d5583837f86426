"""Tests deliveries that continue after the process was killed: they find posted messages, and post none twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bot.replies.delivery import VOID
from tests.support.builders.delivery import DeliverySetup, run_delivery
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_platform import Fault


@pytest_asyncio.fixture
async def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DeliverySetup]:
    """As run_delivery, with short time limits."""
    monkeypatch.setattr("bot.replies.delivery.RETRY_DELAYS_S", (0.01,))
    async with run_delivery(tmp_path) as opened:
        yield opened


async def killed(setup: DeliverySetup, running: asyncio.Task[list[list[str]]]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    setup.restarted()


async def test_after_a_kill_between_post_and_answer_the_message_is_found(setup: DeliverySetup) -> None:
    setup.platform.fails("post", Fault.DONE_SILENT)
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("one")])
    await setup.shows("one")
    await killed(setup, running)
    await setup.ends("one two")
    assert await setup.arrives() == [["one", "one two"]]
    assert setup.platform.calls["find"] == 1


async def test_after_a_kill_before_the_post_it_is_posted(setup: DeliverySetup) -> None:
    setup.platform.fails("post", Fault.SILENT)
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("one")])
    await setup.platform.until(lambda: bool(setup.platform.struck), "it is on its way")
    await killed(setup, running)
    await setup.ends("one two")
    assert await setup.arrives() == [["one two"]]


async def test_after_a_kill_the_same_message_goes_on(setup: DeliverySetup) -> None:
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("one")])
    await setup.platform.until(lambda: rows(setup.root, "SELECT 1 FROM outbox WHERE platform_id <> ''") != [], "stored")
    await killed(setup, running)
    setup.delivery.show([setup.frame("other")])
    await setup.ends("other words")
    shown = await setup.arrives()
    assert len(shown) == 1
    assert (shown[0][0], shown[0][-1]) == ("one", "other words")
    assert setup.platform.calls["find"] == 0


async def test_after_a_kill_what_was_posted_cannot_be_called_off(setup: DeliverySetup) -> None:
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("one")])
    await setup.platform.until(lambda: rows(setup.root, "SELECT 1 FROM outbox WHERE platform_id <> ''") != [], "stored")
    await killed(setup, running)
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("2nd in line")])
    await setup.shows("2nd in line")
    assert not await setup.delivery.call_off()
    await setup.ends("Stopped.")
    assert [texts[-1] for texts in await running] == ["Stopped."]


async def test_an_answer_that_comes_out_shorter_the_second_time_leaves_no_old_text(setup: DeliverySetup) -> None:
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("one"), setup.frame("two", number=1)])
    await setup.shows("two")
    await setup.platform.until(lambda: setup.state() == ["posted", "posted"], "both are stored")
    await killed(setup, running)
    await setup.ends("all of it")
    assert await setup.arrives() == [["one", "all of it"], ["two", VOID]]
    assert setup.state() == ["final", "final"]


@pytest.mark.parametrize(("fault", "left"), [(Fault.DONE_SILENT, [["two", VOID]]), (Fault.SILENT, [])])
async def test_a_later_part_of_a_killed_run_is_settled_when_the_answer_ends_without_it(
    setup: DeliverySetup, fault: Fault, left: list[list[str]]
) -> None:
    running = asyncio.create_task(setup.arrives())
    setup.delivery.show([setup.frame("one")])
    await setup.platform.until(lambda: setup.state() == ["posted"], "the first is stored")
    setup.platform.fails("post", fault)
    setup.delivery.show([setup.frame("one"), setup.frame("two", number=1)])
    await setup.platform.until(lambda: bool(setup.platform.struck), "the second is on its way")
    assert setup.state() == ["posted", "posting"]
    await killed(setup, running)
    await setup.ends("It failed.")
    assert await setup.arrives() == [["one", "It failed."], *left]
    assert setup.state() == ["final", "final"]
