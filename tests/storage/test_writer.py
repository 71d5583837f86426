"""Tests concurrent writes: few transactions for all, accepts first, and a failing write fails alone."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.pool import Pool

from bot.storage import Storage
from bot.types.errors import StorageError
from tests.support.builders.storage_rows import KEY, ask, asked, listening, part, rows, said

NOTHING = cast(str, None)
STORED = "SELECT identity FROM inbox ORDER BY identity"


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await Storage.open(tmp_path)
    yield storage
    await storage.close()


async def accept(storage: Storage, name: str, text: str = "hello") -> bool:
    return await storage.inbox.accept(KEY, name, turns=[said(name, text)], request=asked(name))


@pytest.mark.fault(50)
async def test_hundreds_of_accepts_take_a_few_transactions(storage: Storage, tmp_path: Path) -> None:
    transactions: list[Connection] = []
    with listening(Engine, "begin", transactions.append):
        outcomes = await asyncio.gather(*(accept(storage, f"m{number}") for number in range(300)))
    assert outcomes == [True] * 300
    assert len(transactions) < 10
    for table in ("inbox", "turns", "requests"):
        assert rows(tmp_path, f"SELECT count(*) FROM {table}") == [(300,)]


@pytest.mark.fault(50)
async def test_an_accept_overtakes_the_writes_that_wait(storage: Storage) -> None:
    request = await ask(storage, "m1")
    tables: list[str] = []
    writing, asked_for = threading.Event(), threading.Event()

    def note(*call: object) -> None:
        tables.extend(table for table in ("inbox", "outbox") if str(call[2]).startswith(f"INSERT INTO {table}"))
        writing.set()
        asked_for.wait(20)

    with listening(Engine, "before_cursor_execute", note):
        posts = [asyncio.create_task(storage.outbox.posting(part(request, number))) for number in range(500)]
        await asyncio.to_thread(writing.wait, 20)
        accepting = asyncio.create_task(accept(storage, "m2"))
        for _ in range(10):  # until it is in the writer's queue
            await asyncio.sleep(0)
        asked_for.set()
        await accepting
        assert not all(post.done() for post in posts)
        await asyncio.gather(*posts)
    assert tables.index("inbox") < 200
    assert tables.count("outbox") == 500


async def test_a_write_that_waits_is_not_overtaken_for_ever(storage: Storage) -> None:
    request = await ask(storage, "m1")
    accepted, begun = 0, asyncio.Event()

    async def keep_accepting(lane: int) -> None:
        nonlocal accepted
        for number in range(200):
            await accept(storage, f"m{lane}-{number}")
            accepted += 1
            begun.set()

    lanes = [asyncio.create_task(keep_accepting(lane)) for lane in range(20)]
    async with asyncio.timeout(20):
        await begun.wait()
    before = accepted
    await asyncio.gather(*(storage.outbox.posting(part(request, number)) for number in range(10)))
    await storage.history.forget(KEY)  # truncates the WAL, which needs that no transaction is open
    assert accepted - before < 2000
    for lane in lanes:
        lane.cancel()
    await asyncio.gather(*lanes, return_exceptions=True)


async def test_writes_that_are_not_urgent_keep_their_order(storage: Storage) -> None:
    request = await ask(storage, "m1")
    one = part(request)
    writes = [storage.outbox.posting(one), *(storage.outbox.posted(one.reply_id, f"id{n}") for n in range(100))]
    await asyncio.gather(*writes, *(accept(storage, f"n{number}") for number in range(50)))
    (stored,) = await storage.outbox.of_request(request.request_id)
    assert stored.reply.platform_id == "id99"


async def test_a_broken_event_among_many_is_refused_alone(storage: Storage, tmp_path: Path) -> None:
    names = [f"m{number:02}" for number in range(40)]
    texts = [NOTHING if number == 7 else "half an emoji: \ud83d" if number == 20 else "hello" for number in range(40)]
    transactions: list[Connection] = []
    with listening(Engine, "begin", transactions.append):
        outcomes = await asyncio.gather(*map(accept, [storage] * 40, names, texts), return_exceptions=True)
    assert len(transactions) < 5
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, StorageError)] == [7, 20]
    assert [outcome for outcome in outcomes if not isinstance(outcome, StorageError)] == [True] * 38
    assert rows(tmp_path, STORED) == [(name,) for number, name in enumerate(names) if number not in (7, 20)]


async def test_a_bug_in_a_write_is_raised_to_its_caller_and_the_others_are_stored(
    storage: Storage, tmp_path: Path
) -> None:
    def failing(_: object) -> None:
        raise LookupError("a bug")

    others = [accept(storage, f"m{number}") for number in range(5)]
    broken = storage.inbox.ask(KEY, "broken", [], failing)  # type: ignore[arg-type]  # it makes no request
    outcomes = await asyncio.gather(broken, *others, return_exceptions=True)
    assert isinstance(outcomes[0], LookupError)
    assert outcomes[1:] == [True] * 5
    assert rows(tmp_path, STORED) == [(f"m{number}",) for number in range(5)]


@pytest.mark.fault(37)
async def test_a_locked_database_refuses_all_that_came_together(storage: Storage, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "inhouse.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        outcomes = await asyncio.gather(
            *(accept(storage, f"m{number}") for number in range(30)), return_exceptions=True
        )
        other.rollback()
    assert all(isinstance(outcome, StorageError) and "locked" in str(outcome) for outcome in outcomes)
    assert rows(tmp_path, STORED) == []
    assert await accept(storage, "m1")


@pytest.mark.fault(5)
async def test_of_many_events_on_a_full_disk_those_are_stored_that_were_acknowledged(tmp_path: Path) -> None:
    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.cursor().execute("PRAGMA max_page_count = 120")

    with listening(Pool, "connect", limit):
        storage = await Storage.open(tmp_path)
        names = [f"m{number:03}" for number in range(200)]
        outcomes: list[bool | BaseException] = []
        for first in range(0, 200, 10):
            batch = (accept(storage, name, "words " * 500) for name in names[first : first + 10])
            outcomes += await asyncio.gather(*batch, return_exceptions=True)
        await storage.close()
    refused = [outcome for outcome in outcomes if outcome is not True]
    assert 0 < len(refused) < 200
    assert all(isinstance(outcome, StorageError) for outcome in refused)
    acknowledged = [(name,) for name, outcome in zip(names, outcomes, strict=True) if outcome is True]
    assert rows(tmp_path, STORED) == acknowledged
    assert rows(tmp_path, "SELECT message_id FROM turns ORDER BY message_id") == acknowledged
    assert rows(tmp_path, "SELECT message_id FROM requests ORDER BY message_id") == acknowledged


async def test_what_waits_at_the_end_is_refused_and_what_was_begun_is_stored(tmp_path: Path) -> None:
    storage = await Storage.open(tmp_path)
    writes = [asyncio.create_task(accept(storage, f"m{number:04}")) for number in range(1000)]
    await writes[0]
    await storage.close()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    stored = [f"m{number:04}" for number, outcome in enumerate(outcomes) if outcome is True]
    assert all(outcome is True or isinstance(outcome, StorageError) for outcome in outcomes)
    assert rows(tmp_path, STORED) == [(name,) for name in stored]
