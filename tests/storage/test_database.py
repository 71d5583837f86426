"""Tests the database in use: locks by other programs, a full disk, cancelled callers, and indexes."""

import asyncio
import gc
import random
import sqlite3
import traceback
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.pool import Pool

from bot.storage import Storage
from bot.types.errors import StorageError
from bot.types.messages import RequestStatus
from tests.support.builders.storage_rows import ELSEWHERE, KEY, answer, ask, asked, listening, part, rows, said, texts


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await Storage.open(tmp_path)
    yield storage
    await storage.close()


@pytest.mark.fault(37)
async def test_a_lock_of_a_second_is_waited_out_by_all_writers_and_by_no_reader(
    storage: Storage, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "inhouse.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        deliveries = asyncio.gather(*(storage.inbox.accept(KEY, f"m{number}") for number in range(20)))
        assert await storage.history.turns(KEY) == []
        assert not deliveries.done()
        assert other.in_transaction  # the reader did not wait for its end
        await asyncio.sleep(0.5)
        other.rollback()
        assert await deliveries == [True] * 20


async def test_a_write_that_reads_first_survives_a_write_of_another_program(storage: Storage, tmp_path: Path) -> None:
    await ask(storage, "m1")
    with closing(sqlite3.connect(tmp_path / "inhouse.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE turns SET text = 'changed'")
        undoing = asyncio.create_task(storage.history.undo(KEY))
        await asyncio.sleep(0.2)
        other.commit()
    undone = await undoing
    assert undone is not None
    assert undone.text == "changed"


@pytest.mark.fault(37)
async def test_a_lock_beyond_the_timeout_is_an_error_and_reads_go_on_meanwhile(
    storage: Storage, tmp_path: Path
) -> None:
    await ask(storage, "m1")
    with closing(sqlite3.connect(tmp_path / "inhouse.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM turns")
        accepting = asyncio.create_task(storage.inbox.accept(KEY, "m2", turns=[said("m2")]))
        await asyncio.sleep(0.1)
        assert texts(await storage.history.turns(KEY)) == ["hello"]
        assert not accepting.done()
        with pytest.raises(StorageError, match="locked by another program"):
            await accepting
        other.rollback()
    await ask(storage, "m2")


@pytest.mark.fault(5)
async def test_a_full_disk_is_an_error_and_nothing_is_stored_half_way(tmp_path: Path) -> None:
    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.cursor().execute("PRAGMA max_page_count = 60")

    accepted, refused = 0, None
    with listening(Pool, "connect", limit):
        storage = await Storage.open(tmp_path)
        while refused is None:
            name = f"m{accepted}"
            try:
                await storage.inbox.accept(
                    KEY, name, turns=[said(name, "the canary " * 500)], request=asked(name, f"r{accepted}")
                )
                accepted += 1
            except StorageError as error:
                refused = error
        assert "is full: free some space" in str(refused)
        assert "the canary" not in "".join(traceback.format_exception(refused))
        assert texts(await storage.history.turns(KEY, limit=1))  # it is still readable
        await storage.close()
    assert accepted > 0
    for table in ("inbox", "turns", "requests"):
        assert rows(tmp_path, f"SELECT count(*) FROM {table}") == [(accepted,)]
    storage = await Storage.open(tmp_path)  # with more space
    assert await storage.inbox.accept(KEY, f"m{accepted}")
    await storage.close()


async def test_callers_that_are_cancelled_leave_whole_events_and_a_storage_that_works(
    storage: Storage, tmp_path: Path
) -> None:
    chance = random.Random(7)
    for number in range(60):
        name = f"m{number}"
        task = asyncio.create_task(storage.inbox.accept(KEY, name, turns=[said(name)], request=asked(name)))
        await asyncio.sleep(chance.random() * 0.006)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await ask(storage, "the last")
    counts = [rows(tmp_path, f"SELECT count(*) FROM {table}") for table in ("inbox", "turns", "requests")]
    assert counts[0] == counts[1] == counts[2]


async def test_every_statement_has_an_index_behind_it(storage: Storage, tmp_path: Path) -> None:
    statements: list[tuple[str, tuple[object, ...]]] = []

    def note(*call: object) -> None:
        statements.append((str(call[2]), tuple(call[3]) if isinstance(call[3], (tuple, list)) else ()))

    with listening(Engine, "before_cursor_execute", note):
        await do_everything(storage)
    asked_for = [(sql, values) for sql, values in statements if sql.startswith(("SELECT", "UPDATE", "DELETE"))]
    assert len(asked_for) > 25
    with closing(sqlite3.connect(tmp_path / "inhouse.db")) as connection:
        for sql, values in asked_for:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            assert not [step for step in plan if step.startswith("SCAN") and step != "SCAN CONSTANT ROW"], (sql, plan)


async def do_everything(storage: Storage) -> None:
    inbox, history, outbox = storage.inbox, storage.history, storage.outbox
    request, other = await ask(storage, "m1"), await ask(storage, "m2")
    await inbox.start(request.request_id)
    await inbox.hand_back(request.request_id, 1.0, counts=True)
    await inbox.cancel(other.request_id)
    await inbox.recover()
    await outbox.posting(part(request))
    await outbox.posted(part(request).reply_id, "p1")
    await answer(storage, request, "an answer", part(request))
    await outbox.undelivered()
    await outbox.rate(part(request).reply_id, "1", True)
    await outbox.mark_delivered(part(request).reply_id)
    await outbox.of_request(request.request_id)
    await outbox.by_platform_id("discord", "guild", "channel", "p1")
    (cancelled,) = await inbox.of_message(KEY, "m2")
    assert cancelled.status is RequestStatus.CANCELLED
    await inbox.of_message(KEY, "m1")
    await inbox.request(request.request_id)
    await inbox.outgrew(KEY)
    assert await inbox.latest_seen(0.0, 1) == [("discord", "guild", "channel", "m2")]
    await inbox.still_waiting({other.request_id: 1.0})
    await history.turns(KEY, until="m1")
    await history.turns(KEY, hidden=True)
    await history.edit(KEY, "m1", "edited")
    await history.set(KEY, "model", "phi-4")
    await history.set(KEY, "model", None)
    await history.settings(KEY)
    await history.resolved(KEY)
    await history.following(ELSEWHERE)
    await history.undo(KEY)
    await history.reset(KEY)
    await history.remove_message(KEY, "m1")
    await history.forget(KEY)


async def test_callers_that_are_cancelled_give_no_connection_up_half_way(storage: Storage) -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def work(name: str) -> None:
        try:
            await storage.inbox.start(f"request of {name}")
            await storage.history.turns(KEY)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await storage.inbox.hand_back(f"request of {name}", 1.0, counts=False)
            raise

    for number in range(60):
        names = [f"m{number}-{each}" for each in range(4)]
        for name in names:
            await ask(storage, name)
        working = [asyncio.create_task(work(name)) for name in names]
        for _ in range(2):  # again while they restore their state
            await asyncio.sleep(random.random() * 0.01)
            for task in working:
                task.cancel()
        ends = await asyncio.gather(*working, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    gc.collect()
    assert complaints == []
