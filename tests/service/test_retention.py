"""Tests retention: old rows are deleted, also from the files; pending or repeatable ones are kept."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from bot.models.catalog import Catalog
from bot.models.runtime_config import RuntimeConfig
from bot.service import retention
from bot.service.retention import DAY_S, Retention
from bot.storage import Storage
from bot.storage.expiry import STEP_ROWS, Expiry
from bot.storage.tables import metadata
from bot.types.errors import StorageError
from bot.types.messages import FinishReason, RequestStatus
from tests.support.builders.service import make_settings, run_service
from tests.support.builders.storage_rows import (
    KEY,
    answer,
    ask,
    asked,
    listening,
    open_storage,
    part,
    rows,
    said,
    texts,
)

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = pytest.mark.usefixtures("each_database")

TABLES = ("turns", "requests", "outbox", "ratings", "inbox")
OLD, RECENT = 100 * DAY_S, 80 * DAY_S


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await open_storage(tmp_path / "state")
    yield storage
    await storage.close()


def keeper(tmp_path: Path, storage: Storage, **settings: object) -> Retention:
    made = make_settings(tmp_path, **{"retention": 90, **settings})
    return Retention(RuntimeConfig(made, Catalog.of(made)), storage)


async def talk(storage: Storage, name: str, text: str = "the canary") -> None:
    """Stores a question with its answer, its message and its rating."""
    request = await ask(storage, name, f"{text} in the question", at=time.time())
    await answer(storage, request, f"{text} in the answer", part(request, text=f"{text} in the part"))
    await storage.outbox.mark_delivered(part(request).reply_id)
    await storage.outbox.rate(part(request).reply_id, "1", True)


def multiply(directory: Path, number: int) -> None:
    """Copies all stored rows `number` times."""
    for table, names in (
        ("inbox", ["identity"]),
        ("requests", ["request_id", "message_id"]),
        ("turns", ["message_id", "request_id"]),
        ("outbox", ["reply_id", "request_id", "question_id"]),
        ("ratings", ["reply_id"]),
    ):
        columns = [column for column in map(str, metadata.tables[table].columns.keys()) if column != "id"]
        values = [f"{name} || '-' || value" if name in names else name for name in columns]
        rows(
            directory,
            "WITH RECURSIVE numbers(value) AS "
            f"(SELECT 1 UNION SELECT value + 1 FROM numbers WHERE value < {number}) "
            f"INSERT INTO {table} ({','.join(columns)}) SELECT {','.join(values)} FROM {table}, numbers",
        )


def age(directory: Path, seconds: float, *, except_for: str = "-") -> None:
    """Makes all stored rows older."""
    rows(directory, f"UPDATE turns SET sent_at = sent_at - {seconds} WHERE message_id != '{except_for}'")
    rows(directory, f"UPDATE requests SET finished_at = finished_at - {seconds} WHERE message_id != '{except_for}'")
    rows(directory, f"UPDATE inbox SET received_at = received_at - {seconds} WHERE identity != '{except_for}'")


def counts(directory: Path) -> list[object]:
    return [rows(directory, f"SELECT count(*) FROM {table}")[0][0] for table in TABLES]


def everything(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()))


@pytest.mark.parametrize("each_database", ["SQLite"], indirect=True)
async def test_what_is_older_than_the_setting_goes_from_every_table_and_every_file(
    storage: Storage, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    await talk(storage, "old")
    multiply(state, 2 * STEP_ROWS)
    age(state, OLD - RECENT)
    await talk(storage, "recent", "the finch")
    age(state, RECENT)
    assert b"the canary" in everything(state)
    assert await keeper(tmp_path, storage).clean() == (2 * STEP_ROWS + 1) * 6
    assert counts(state) == [2, 1, 1, 1, 1]
    left = everything(state)
    assert b"the canary" not in left
    assert b"the finch" in left
    assert rows(state, "PRAGMA integrity_check") == [("ok",)]
    assert await keeper(tmp_path, storage).clean() == 0


@pytest.mark.parametrize(("days", "left"), [(0, 1), (101, 1), (99, 0)])
async def test_the_setting_is_in_days_and_0_is_for_ever(storage: Storage, tmp_path: Path, days: int, left: int) -> None:
    await talk(storage, "m")
    age(tmp_path / "state", OLD)
    await keeper(tmp_path, storage, retention=days).clean()
    assert counts(tmp_path / "state")[1:] == [left] * 4


async def test_what_is_still_owed_stays_whatever_its_age(storage: Storage, tmp_path: Path) -> None:
    state = tmp_path / "state"
    running = await ask(storage, "running")
    await ask(storage, "waiting")
    await storage.inbox.start(running.request_id)
    unshown = await ask(storage, "unshown")
    await answer(storage, unshown, "!", part(unshown))
    await talk(storage, "done")
    age(state, OLD)
    await keeper(tmp_path, storage).clean()
    assert texts(await storage.history.turns(KEY)) == ["hello", "hello"]
    assert {status for (status,) in rows(state, "SELECT status FROM requests")} == {"waiting", "running", "finished"}
    assert [owed.reply for owed in await storage.outbox.undelivered()] == [part(unshown)]
    for request in (asked("waiting"), running):
        await answer(storage, request, "at last", part(request))
        await storage.outbox.mark_delivered(part(request).reply_id)
    await storage.outbox.mark_delivered(part(unshown).reply_id)
    age(state, OLD)
    await keeper(tmp_path, storage).clean()
    assert counts(state) == [0, 0, 0, 0, 0]


async def test_an_event_that_may_be_read_back_is_known_longer_than_its_words(storage: Storage, tmp_path: Path) -> None:
    state = tmp_path / "state"
    await talk(storage, "m")
    age(state, 7.5 * DAY_S)
    await keeper(tmp_path, storage, retention=1, catchup_age=7 * DAY_S).clean()
    assert counts(state) == [0, 0, 0, 0, 1]
    assert not await storage.inbox.accept(KEY, "m")  # a repeated delivery
    age(state, DAY_S)
    await keeper(tmp_path, storage, retention=1, catchup_age=7 * DAY_S).clean()
    assert counts(state) == [0] * 5


async def test_a_cancelled_request_goes_too_and_a_new_answer_to_an_old_question_stays(
    storage: Storage, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    cancelled = await ask(storage, "cancelled")
    await storage.inbox.cancel(cancelled.request_id)
    await talk(storage, "m")
    age(state, OLD)
    again = asked("m", "again", kind="regenerate")
    await storage.inbox.add_request(again)
    await answer(storage, again, "a new answer", part(again))
    await storage.outbox.mark_delivered(part(again).reply_id)
    await keeper(tmp_path, storage).clean()
    assert rows(state, "SELECT request_id FROM requests") == [("again",)]
    assert rows(state, "SELECT reply_id FROM outbox") == [("again/0",)]


@pytest.mark.parametrize("each_database", ["SQLite"], indirect=True)
async def test_free_pages_are_given_back(storage: Storage, tmp_path: Path) -> None:
    state = tmp_path / "state"
    await talk(storage, "m", "words " * 2000)
    multiply(state, 60)
    await storage.expiry.erase(anew=True)
    before = (state / "inhouse.db").stat().st_size
    age(state, OLD)
    await keeper(tmp_path, storage).clean()
    assert (state / "inhouse.db").stat().st_size < before / 10


async def test_no_request_waits_for_a_large_removal(storage: Storage, tmp_path: Path) -> None:
    await talk(storage, "m")
    multiply(tmp_path / "state", 8 * STEP_ROWS - 1)
    age(tmp_path / "state", OLD)
    cleaning = asyncio.create_task(keeper(tmp_path, storage).clean())
    waits, number = [], 0
    while not cleaning.done():
        began = time.monotonic()
        await ask(storage, f"live{number}", at=time.time())
        waits.append(time.monotonic() - began)
        number += 1
    assert await cleaning == 8 * STEP_ROWS * 6
    assert number >= 8, "messages are stored between the steps"
    print(f"{len(waits)} messages, the slowest stored in {max(waits) * 1000:.0f} ms")


@pytest.mark.parametrize("each_database", ["SQLite"], indirect=True)
async def test_every_statement_has_an_index_behind_it(storage: Storage, tmp_path: Path) -> None:
    await talk(storage, "m")
    age(tmp_path / "state", OLD)
    statements: list[tuple[str, tuple[object, ...]]] = []

    def note(*call: object) -> None:
        statements.append((str(call[2]), tuple(call[3]) if isinstance(call[3], (tuple, list)) else ()))

    with listening(Engine, "before_cursor_execute", note):
        await storage.expiry.step(time.time(), time.time())
    assert len([sql for sql, _ in statements if sql.startswith(("SELECT", "DELETE"))]) == 8
    with closing(sqlite3.connect(tmp_path / "state" / "inhouse.db")) as connection:
        for sql, values in statements:
            if sql.startswith(("SELECT", "DELETE")):
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
                assert not [step for step in plan if step.startswith("SCAN")], (sql, plan)


@pytest.mark.parametrize("each_database", ["SQLite"], indirect=True)
async def test_deleted_text_leaves_the_log_once_no_reader_needs_it(storage: Storage, tmp_path: Path) -> None:
    state = tmp_path / "state"
    await talk(storage, "m")
    with closing(sqlite3.connect(state / "inhouse.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM turns").fetchone() == (2,)
        began = time.monotonic()
        await storage.history.forget(KEY)
        assert time.monotonic() - began < 2, "an acknowledgement must not wait for that reader"
        assert b"the canary" in everything(state)
        assert not await storage.expiry.erase()
        reader.execute("ROLLBACK")
    assert await storage.expiry.erase()
    assert b"the canary" not in everything(state)


async def test_the_service_removes_at_its_start_and_when_the_setting_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOOK_S", 0.05)
    async with run_service(tmp_path, retention=90) as setup:
        await setup.team.asks("ana", "the old question")
        await setup.stop()
        age(tmp_path / "state", OLD)
    async with run_service(tmp_path, retention=90) as setup:
        await setup.platform.until(lambda: counts(tmp_path / "state") == [0] * 5, "the old one is gone")
        await setup.team.asks("ana", "the middle question")
        await asyncio.to_thread(age, tmp_path / "state", 10 * DAY_S)  # the service may be writing at the same time
        await setup.team.asks("ana", "the new question")
        assert rows(tmp_path / "state", "SELECT count(*) FROM requests") == [(2,)]
        setup.service.reload(setup.settings.model_copy(update={"retention": 5}), Catalog.of(setup.settings))
        await setup.platform.until(
            lambda: rows(tmp_path / "state", "SELECT count(*) FROM requests") == [(1,)], "the middle one is gone"
        )


async def test_a_failure_is_reported_and_tried_again(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "LOOK_S", 0.01)
    await talk(storage, "m")
    age(tmp_path / "state", OLD)
    step, failures = Expiry.step, [StorageError("The disk is full.")] * 2

    async def failing(self: Expiry, before: float, seen_before: float) -> int:
        if failures:
            raise failures.pop()
        return await step(self, before, seen_before)

    monkeypatch.setattr(Expiry, "step", failing)
    keeping = asyncio.create_task(keeper(tmp_path, storage).keep())
    async with asyncio.timeout(20):
        while counts(tmp_path / "state") != [0] * 5:  # noqa: ASYNC110 -- visible only in the file
            await asyncio.sleep(0.02)
    keeping.cancel()
    assert caplog.text.count("could not be deleted yet: The disk is full.") == 2


@pytest.mark.parametrize("each_database", ["PostgreSQL"], indirect=True)
async def test_hosts_that_have_been_gone_for_long_are_forgotten_whatever_the_retention(
    storage: Storage, tmp_path: Path
) -> None:
    gone = "INSERT INTO hosts (name, epoch, expires_at, roles, slots, model) VALUES ('gone', 1, -86400, '', 0, '')"
    rows(tmp_path / "state", gone)
    keeping = asyncio.create_task(keeper(tmp_path, storage, retention=0).keep())
    async with asyncio.timeout(20):
        while [host.name for host in await storage.hosts.all()] != [storage.hosts.this]:  # noqa: ASYNC110 -- the job tells nobody
            await asyncio.sleep(0.02)
    keeping.cancel()


@pytest.mark.parametrize("each_database", ["SQLite"], indirect=True)
async def test_the_end_of_an_answer_that_was_forgotten_meanwhile_leaves_no_words(
    storage: Storage, tmp_path: Path
) -> None:
    request = await ask(storage, "m1", "the canary in the question")
    await storage.inbox.start(request.request_id)
    await storage.history.forget(KEY)
    await storage.inbox.finish(
        request.request_id,
        RequestStatus.CANCELLED,
        finish_reason=FinishReason.ABORT,
        usage=None,
        error="",
        answer="the canary in the answer",
        replies=[part(request, text="the canary in the part")],
    )
    await storage.outbox.mark_delivered(part(request).reply_id)
    left = everything(tmp_path / "state")
    assert b"the canary" not in left
    assert b"Ann" not in left


@pytest.mark.parametrize("each_database", ["SQLite"], indirect=True)
async def test_what_was_undone_is_in_no_file_any_more(storage: Storage, tmp_path: Path) -> None:
    await storage.history.add(said("m0", "before", at=1.0))
    await talk(storage, "m")
    assert await storage.history.undo(KEY) is not None
    left = everything(tmp_path / "state")
    assert b"the canary" not in left
    assert b"before" in left
