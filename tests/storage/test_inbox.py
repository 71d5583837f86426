"""Tests the inbox: events are accepted once, completely or not at all; a request's states from waiting to its end."""

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from bot.storage import NewTurn, Storage
from bot.types.errors import StorageError
from bot.types.messages import ConversationKey, FinishReason, RequestStatus
from tests.support.builders.storage_rows import (
    ANN,
    ELSEWHERE,
    KEY,
    USAGE,
    answer,
    ask,
    asked,
    open_storage,
    part,
    rows,
    said,
    texts,
)

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = pytest.mark.usefixtures("each_database")

NOTHING = cast(str, None)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await open_storage(tmp_path)
    yield storage
    await storage.close()


async def test_an_event_is_accepted_once_and_its_redelivery_changes_nothing(storage: Storage) -> None:
    request = await ask(storage, "m1", "first")
    assert not await storage.inbox.accept(KEY, "m1", turns=[said("m1", "again")], request=asked("m1", "another"))
    assert texts(await storage.history.turns(KEY)) == ["first"]
    assert [stored.request for stored in await storage.inbox.of_message(KEY, "m1")] == [request]


async def test_twenty_deliveries_at_once_are_one(storage: Storage) -> None:
    deliveries = [
        storage.inbox.accept(KEY, "m1", turns=[said("m1")], request=asked("m1", f"r{number}")) for number in range(20)
    ]
    assert sorted(await asyncio.gather(*deliveries)) == [False] * 19 + [True]
    assert len(await storage.history.turns(KEY)) == 1
    assert len(await storage.inbox.of_message(KEY, "m1")) == 1


async def test_the_thread_does_not_tell_events_apart_but_channel_workspace_and_platform_do(storage: Storage) -> None:
    assert await storage.inbox.accept(KEY, "m1")
    assert not await storage.inbox.accept(ELSEWHERE, "m1")
    for other in (replace(KEY, channel="c2"), replace(KEY, workspace="w2"), replace(KEY, platform="slack")):
        assert await storage.inbox.accept(other, "m1")


@pytest.mark.parametrize(
    ("key", "identity"), [(KEY, NOTHING), (replace(KEY, channel=NOTHING), "m1"), (replace(KEY, thread=NOTHING), "m1")]
)
async def test_a_broken_event_is_an_error_and_not_a_duplicate(
    storage: Storage, key: ConversationKey, identity: str
) -> None:
    with pytest.raises(StorageError, match=r"(?i)not.null"):
        await storage.inbox.accept(key, identity)


@pytest.mark.parametrize("turn", [said("m1", NOTHING), said("m1", at=math.nan), said("m1", "half an emoji: \ud83d")])
async def test_an_event_with_a_broken_turn_is_stored_not_at_all(storage: Storage, turn: NewTurn) -> None:
    with pytest.raises(StorageError):
        await storage.inbox.accept(KEY, "m1", turns=[said("m0"), turn], request=asked("m1"))
    assert await storage.history.turns(KEY) == []
    await ask(storage, "m1")


async def test_an_event_whose_request_is_broken_is_stored_not_at_all(storage: Storage) -> None:
    await ask(storage, "m1")
    with pytest.raises(StorageError, match=r"(?i)unique"):
        await storage.inbox.accept(KEY, "m2", turns=[said("m2")], request=asked("m2", "request of m1"))
    assert len(await storage.history.turns(KEY)) == 1
    await ask(storage, "m2")


async def test_a_request_comes_back_as_it_was_also_after_a_restart(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    request = await ask(storage, "m1")
    await storage.close()
    storage = await open_storage(tmp_path)
    assert await storage.inbox.recover() == [request]
    stored = await storage.inbox.request(request.request_id)
    await storage.close()
    assert stored is not None
    assert (stored.request, stored.status, stored.finish_reason) == (request, RequestStatus.WAITING, None)
    assert (stored.usage, stored.error, stored.finished_at) == (None, "", None)


async def test_what_ran_at_a_crash_waits_again_one_attempt_later_in_order_of_acceptance(storage: Storage) -> None:
    first = await ask(storage, "m1", at=2.0)
    second = await ask(storage, "m2", at=1.0)  # the clock was set back
    third = await ask(storage, "m3", at=3.0)
    await storage.inbox.start(first.request_id)
    await storage.inbox.start(third.request_id)
    await answer(storage, third, "done")
    assert await storage.inbox.recover() == [replace(first, attempts=1, service_runs=1), second]
    assert await storage.inbox.recover() == [replace(first, attempts=1, service_runs=1), second]


@pytest.mark.parametrize("counts", [True, False])
async def test_a_request_that_is_handed_back_waits_with_the_time_it_has_left(storage: Storage, counts: bool) -> None:
    request = await ask(storage, "m1")
    await storage.inbox.start(request.request_id)
    await storage.inbox.hand_back(request.request_id, 12.5, counts=counts)
    assert await storage.inbox.recover() == [replace(request, attempts=int(counts), wait_left_s=12.5)]


async def test_only_what_waits_can_be_cancelled_and_what_is_cancelled_does_not_start(storage: Storage) -> None:
    running, waiting = await ask(storage, "m1"), await ask(storage, "m2")
    assert await storage.inbox.start(running.request_id)
    for request in (waiting, running):
        await storage.inbox.cancel(request.request_id)
    assert not await storage.inbox.start(waiting.request_id)
    cancelled, going_on = [await storage.inbox.request(request.request_id) for request in (waiting, running)]
    assert cancelled is not None
    assert going_on is not None
    assert cancelled.status is RequestStatus.CANCELLED
    assert cancelled.finished_at is not None
    assert (going_on.status, going_on.finished_at) == (RequestStatus.RUNNING, None)


async def test_a_request_that_runs_here_may_be_started_again(storage: Storage) -> None:
    request = await ask(storage, "m1")
    for _ in range(2):  # the second time, because its model could not be loaded
        assert await storage.inbox.start(request.request_id)
    assert await storage.inbox.recover() == [replace(request, attempts=1, service_runs=1)]


async def test_the_end_of_a_request_is_stored_with_all_that_it_made(storage: Storage) -> None:
    request = await ask(storage, "m1", "a question", at=5.0)
    reply = part(request)
    await answer(storage, request, "an answer", reply)
    stored = await storage.inbox.request(request.request_id)
    assert stored is not None
    assert (stored.status, stored.finish_reason) == (RequestStatus.FINISHED, FinishReason.STOP)
    assert (stored.usage, stored.error) == (USAGE, "")
    question, answered = await storage.history.turns(KEY)
    assert (answered.text, answered.role, answered.message_id) == ("an answer", "assistant", "m1")
    assert (answered.sent_at, answered.request_id) == (question.sent_at, request.request_id)
    assert [owed.reply for owed in await storage.outbox.undelivered()] == [reply]


async def test_an_error_is_stored_without_an_answer(storage: Storage) -> None:
    request = await ask(storage, "m1")
    await storage.inbox.finish(
        request.request_id,
        RequestStatus.FAILED,
        finish_reason=FinishReason.ERROR,
        usage=None,
        error="The model could not be loaded.",
        answer=None,
        replies=[part(request)],
    )
    stored = await storage.inbox.request(request.request_id)
    assert stored is not None
    assert (stored.status, stored.error, stored.usage) == (RequestStatus.FAILED, "The model could not be loaded.", None)
    assert texts(await storage.history.turns(KEY)) == ["hello"]


async def test_another_answer_takes_the_place_of_the_first_and_none_leaves_it(storage: Storage) -> None:
    await answer(storage, await ask(storage, "m1", "question", at=1.0), "one")
    await ask(storage, "m2", "next", at=2.0)
    again = asked("m1", "again", kind="regenerate")
    await storage.inbox.add_request(again)
    await answer(storage, again, "two")
    assert texts(await storage.history.turns(KEY)) == ["question", "two", "next"]
    for nothing in (None, ""):
        await answer(storage, again, nothing)
    assert texts(await storage.history.turns(KEY)) == ["question", "two", "next"]
    kinds = [stored.request.kind for stored in await storage.inbox.of_message(KEY, "m1")]
    assert kinds == ["answer", "regenerate"]


async def test_the_answer_to_a_deleted_question_is_not_kept(storage: Storage) -> None:
    request = await ask(storage, "m1")
    await storage.history.remove_message(KEY, "m1")
    await answer(storage, request, "too late")
    assert await storage.history.turns(KEY) == []


async def test_an_end_that_cannot_be_stored_whole_is_not_stored(storage: Storage) -> None:
    request = await ask(storage, "m1")
    stranger = part(asked("m9"))  # a part of a request that is not stored
    with pytest.raises(StorageError, match=r"(?i)foreign key"):
        await answer(storage, request, "an answer", part(request), stranger)
    stored = await storage.inbox.request(request.request_id)
    assert stored is not None
    assert stored.status is RequestStatus.WAITING
    assert texts(await storage.history.turns(KEY)) == ["hello"]
    assert await storage.outbox.of_request(request.request_id) == []


async def test_a_request_that_is_not_stored_cannot_end(storage: Storage) -> None:
    with pytest.raises(StorageError, match="request of m1"):
        await answer(storage, asked("m1"), "an answer")
    assert await storage.inbox.request("request of m1") is None


async def test_a_request_that_cannot_be_read_is_reported_without_its_content(storage: Storage, tmp_path: Path) -> None:
    await ask(storage, "m1")
    rows(tmp_path, 'UPDATE requests SET params = \'{"temperature": "secret"}\'')
    with pytest.raises(StorageError) as caught:
        await storage.inbox.recover()
    assert "secret" not in str(caught.value)
    assert ANN.name not in str(caught.value)
