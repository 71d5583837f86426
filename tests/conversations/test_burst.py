"""Tests many messages at once: few transactions, a full queue, duplicates, and deliveries that are cancelled."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from bot.storage import Storage
from bot.types.errors import StorageError
from bot.types.messages import Accepted, GenerationRequest, Person, Refused
from tests.support.builders.conversations import CHANNEL, ConversationsSetup
from tests.support.builders.service import make_settings
from tests.support.builders.storage_rows import listening


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[ConversationsSetup]:
    settings = make_settings(tmp_path, queue_size=3, per_user=2)
    storage = await Storage.open(settings.state_dir)
    yield ConversationsSetup(settings, storage)
    await storage.close()


@pytest.mark.fault(32)
@pytest.mark.fault(50)
async def test_a_full_queue_refuses_without_asking_storage(setup: ConversationsSetup) -> None:
    for name in ("ana", "ben", "cleo"):
        await setup.hears(name, who=Person(name, name))
    transactions: list[Connection] = []
    with listening(Engine, "begin", transactions.append):
        outcomes = [await setup.hears(f"dan {number}", who=Person("dan", "Dan")) for number in range(20)]
        assert await setup.hears("ben", who=Person("ben", "ben")) == Accepted()
    assert all(isinstance(outcome, Refused) for outcome in outcomes)
    assert transactions == []


async def test_a_full_queue_does_not_refuse_what_an_earlier_process_answered(
    setup: ConversationsSetup, tmp_path: Path
) -> None:
    await setup.hears("one")
    await setup.answers(setup.owed[0], "1")
    later = ConversationsSetup(make_settings(tmp_path, queue_size=1), setup.storage)
    await later.conversations.load()
    await later.hears("two", who=Person("ben", "Ben"))
    assert isinstance(await later.hears("three"), Refused)
    assert await later.hears("one") == Accepted()
    assert len(later.owed) == 1


@pytest.mark.fault(50)
async def test_hundreds_of_messages_at_once_take_a_few_transactions(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, queue_size=1000, per_user=1000)
    storage = await Storage.open(settings.state_dir)
    setup = ConversationsSetup(settings, storage)
    await setup.storage.history.set(CHANNEL, "temperature", "0.3")
    transactions: list[Connection] = []
    with listening(Engine, "begin", transactions.append):
        outcomes = await asyncio.gather(*(setup.hears(f"text {number}") for number in range(300)))
    assert sorted(outcomes, key=str) == sorted((Accepted(each.request_id) for each in setup.owed), key=str)
    assert {request.params.temperature for request in setup.owed} == {0.3}
    assert len({request.message_id for request in setup.owed}) == 300
    assert len(transactions) < 10
    await storage.close()


async def test_a_copy_is_stored_where_the_first_one_could_not_be(
    setup: ConversationsSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, tries = setup.storage.inbox.ask, 0

    async def failing_once(*args: Any) -> GenerationRequest | None:  # Any: arguments of `ask`
        nonlocal tries
        tries += 1
        if tries == 1:
            await asyncio.sleep(0.01)
            raise StorageError("The disk is full.")
        return await really(*args)

    monkeypatch.setattr(setup.storage.inbox, "ask", failing_once)
    outcomes = await asyncio.gather(setup.hears("one"), setup.hears("one"), return_exceptions=True)
    assert isinstance(outcomes[0], StorageError)
    assert outcomes[1] == Accepted(setup.owed[0].request_id)
    assert len(setup.owed) == 1


async def test_what_is_stored_is_submitted_though_its_delivery_is_cancelled(setup: ConversationsSetup) -> None:
    delivery = asyncio.create_task(setup.hears("one"))
    await asyncio.sleep(0)
    delivery.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivery
    assert [request.message_id for request in setup.owed] == ["one"]
    assert await setup.hears("one") == Accepted()
