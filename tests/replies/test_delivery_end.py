"""Tests the end of retries: what fails for a day is logged at growing intervals, counted, and dropped."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from bot.replies import delivery
from bot.replies.delivery import FailureLog
from bot.storage.inbox import Inbox
from bot.types.errors import NotSent, RetryLater, StorageError
from bot.types.messages import FinishReason, Reply
from bot.web.recent_errors import RecentErrors
from tests.support.builders.delivery import DeliverySetup, run_delivery
from tests.support.builders.service import run_service
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_platform import Fault, ScriptedPlatform


@pytest_asyncio.fixture
async def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DeliverySetup]:
    """As run_delivery; gives up after half a second, and logs after 20, 100 and 500 ms."""
    monkeypatch.setattr("bot.replies.delivery.RETRY_DELAYS_S", (0.005,))
    monkeypatch.setattr("bot.replies.delivery.FIRST_LOG_S", 0.02)
    monkeypatch.setattr("bot.replies.delivery.GIVE_UP_S", 0.5)
    async with run_delivery(tmp_path) as opened:
        yield opened


@pytest.fixture
def recent_errors() -> Iterator[RecentErrors]:
    """What the status page shows."""
    handler = RecentErrors()
    handler.open()
    yield handler
    handler.close()


@pytest.mark.parametrize("fault", [Fault.RETRY, Fault.CUT, Fault.BROKEN])
async def test_what_a_platform_does_not_take_is_dropped_in_the_end(
    setup: DeliverySetup, fault: Fault, recent_errors: RecentErrors, caplog: pytest.LogCaptureFixture
) -> None:
    setup.platform.fails("post", fault, 10_000, seconds=0.005)
    setup.platform.fails("find", Fault.RETRY, 10_000, seconds=0.005)
    await setup.ends("the answer")
    assert await setup.arrives() == []
    assert setup.state() == ["dropped"]
    ((reason,),) = rows(setup.root, "SELECT dropped FROM outbox")
    assert str(reason).startswith("It could not be shown for ")
    levels = [record.levelno for record in caplog.records]
    assert levels.count(logging.ERROR) == 1
    assert 1 <= levels.count(logging.WARNING) <= 4
    assert recent_errors.last()[0].what.startswith("An answer was dropped, because it could not be shown on scripted")
    totals = setup.metrics.totals
    assert totals.answers_dropped == {"scripted": 1}
    assert totals.delivery_retries["scripted"] > 5


async def test_other_parts_of_a_dropped_answer_are_dropped_too(setup: DeliverySetup) -> None:
    setup.platform.fails("post", Fault.RETRY, 10_000, seconds=0.005, only=lambda reply: reply.part == 1)
    await setup.ends("one", "two", "three")
    assert await setup.arrives() == [["one"]]
    assert setup.state() == ["final", "dropped", "dropped"]


async def test_where_the_drop_cannot_be_stored_the_next_start_tries_again(
    setup: DeliverySetup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(*args: object, **more: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(setup.storage.outbox, "posting", failing)
        patched.setattr(setup.storage.outbox, "mark_delivered", failing)
        await setup.ends("the answer")
        assert await setup.arrives() == []
    assert setup.state() == ["ready"]
    assert "It could not be stored that an answer was dropped: the disk is full" in caplog.text
    (left,) = await setup.storage.outbox.undelivered()
    setup.restarted()
    setup.delivery.show([left.reply])
    assert await setup.arrives() == [["the answer"]]
    assert setup.state() == ["final"]


async def test_an_answer_that_is_refused_is_counted(setup: DeliverySetup) -> None:
    setup.platform.fails("post", Fault.REJECTED, 100)
    await setup.ends("one", "two")
    assert await setup.arrives() == []
    assert setup.metrics.totals.answers_dropped == {"scripted": 1}


async def test_what_we_hold_back_ourselves_is_no_failed_attempt(setup: DeliverySetup) -> None:
    refusals = [RetryLater(0.005), NotSent(0.005), NotSent(0.005)]
    running = asyncio.create_task(setup.arrives())

    async def compose() -> list[Reply]:
        if refusals:
            raise refusals.pop()
        return [setup.frame("text")]

    setup.delivery.grow(compose)
    await setup.shows("text")
    await setup.ends("the end")
    await running
    assert setup.metrics.totals.delivery_retries == {"scripted": 1}


def test_failures_are_logged_at_growing_intervals_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("bot.replies.delivery.time.monotonic", lambda: now)
    failures, logged = FailureLog(), list[float]()
    while not failures.expired:
        if failures.failed():
            logged.append(now)
        now += 30.0
    assert logged == [60, 300, 1500, 7500, 37500]
    assert now == delivery.GIVE_UP_S
    failures.succeeded()
    assert not failures.expired
    assert not failures.failed()


async def test_an_end_that_is_never_stored_is_not_shown_and_its_question_is_answered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bot.replies.delivery.GIVE_UP_S", 0.3)

    async def failing(*args: object, **more: object) -> None:
        raise StorageError("the disk is full")

    async with ScriptedPlatform() as platform:
        async with run_service(tmp_path, platform) as setup:
            with monkeypatch.context() as patched:
                patched.setattr(Inbox, "finish", failing)
                await setup.team.says("ana", "hello")
                await platform.until(lambda: "was never stored" in caplog.text, "it is given up")
            assert not any(message.reply.final for message in platform.posted)
            assert rows(setup.settings.state_dir, "SELECT status FROM requests") == [("running",)]
            answer = await setup.team.asks("ana", "another")
            assert answer.reason is FinishReason.STOP
        async with run_service(tmp_path, platform):
            await platform.until(lambda: platform.posted[0].reply.final, "it is answered again")
        assert [message.text for message in platform.posted] == ["You said: hello", "You said: another"]
