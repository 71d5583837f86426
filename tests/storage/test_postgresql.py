"""Tests what only a server has: outages, lost commits, hosts that are declared dead, and refused connections."""

import asyncio
import importlib.util
import logging
import re
import shutil
import signal
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, create_engine

from bot.storage import Storage, postgresql, writer
from bot.storage.postgresql import driver_url
from bot.storage.tables import metadata
from bot.types.errors import ConfigError, InhouseError, StateLocked, StorageError
from bot.types.messages import GenerationRequest, Picture, Role
from tests.support.builders.storage_rows import KEY, ask, asked, listening, part, said, texts
from tests.support.fakes.database_relay import DatabaseRelay
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.databases"]

PASSWORD = "a-password-that-nobody-sees"


@pytest.fixture
async def storage(tmp_path: Path, url: SecretStr, relay: DatabaseRelay) -> AsyncIterator[Storage]:
    """A storage whose connections the relay may lose."""
    storage = await Storage.open(tmp_path, relay.url(url))
    yield storage
    await storage.close()


async def accept(storage: Storage, name: str, text: str = "hello") -> bool:
    return await storage.inbox.accept(KEY, name, turns=[said(name, text)], request=asked(name))


@pytest.mark.parametrize("what", ["request", "answer"])
async def test_a_commit_whose_outcome_is_lost_is_neither_lost_nor_done_twice(
    storage: Storage, relay: DatabaseRelay, postgresql: PostgresqlProcess, url: SecretStr, what: str
) -> None:
    await ask(storage, "m1")
    for number in range(3):
        relay.lose_commit(what)
        assert await accept(storage, f"n{number}")  # False would say that it had been stored before
        assert relay.lost.is_set()
        relay.lose_commit(what)
        await storage.history.set(KEY, "model", f"model {number}")
        assert relay.lost.is_set()
    assert postgresql.execute("SELECT count(*) FROM requests", url) == [(4,)]
    assert await storage.history.settings(KEY) == {"model": "model 2"}


async def test_in_an_outage_commands_fail_and_all_else_waits_and_goes_on_by_itself(
    storage: Storage, relay: DatabaseRelay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    request = await ask(storage, "m1")
    await relay.cut()
    began = time.monotonic()
    waiting = [
        asyncio.create_task(storage.outbox.posting(part(request))),
        asyncio.create_task(storage.outbox.posted(part(request).reply_id, "p1")),
        asyncio.create_task(storage.inbox.start(request.request_id)),
    ]
    reading = asyncio.create_task(storage.history.turns(KEY))
    for name in ("m2", "m3"):
        with pytest.raises(StorageError, match="cannot be reached"):
            await accept(storage, name)
    assert time.monotonic() - began < 3 * 2  # each within the 3 s in which an event must be acknowledged
    assert not any(task.done() for task in (*waiting, reading))
    await relay.start()
    await asyncio.gather(*waiting)
    assert texts(await reading) == ["hello"]
    (stored,) = await storage.outbox.of_request(request.request_id)
    assert stored.reply.platform_id == "p1"
    assert await accept(storage, "m2")
    levels = [record.levelname for record in caplog.records if record.name == "bot.storage.outage"]
    assert levels == ["ERROR", "WARNING"]


async def test_messages_wait_for_the_server_in_their_order_and_not_too_many(
    storage: Storage, relay: DatabaseRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stored(name: str) -> "asyncio.Task[GenerationRequest | None]":
        request = asked(name)
        return asyncio.create_task(storage.inbox.ask(KEY, name, [said(name, "hello")], lambda _: request))

    monkeypatch.setattr(writer, "MOST_WAITING", 3)
    await relay.cut()
    first = stored("m1")
    await asyncio.sleep(0)  # it is the first to reach the writer
    with pytest.raises(StorageError, match="cannot be reached"):
        await accept(storage, "command")  # so the server is known to be away
    later = [stored(f"m{number}") for number in range(2, 6)]
    done, _ = await asyncio.wait(later, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    assert done == {later.pop()}
    await relay.start()
    requests = [request for request in await asyncio.gather(first, *later) if request]
    assert [request.message_id for request in requests] == ["m1", "m2", "m3", "m4"]
    assert requests == sorted(requests, key=lambda request: request.number)
    with pytest.raises(StorageError, match="cannot be reached"):
        done.pop().result()


async def test_a_stop_during_an_outage_waits_for_nothing(storage: Storage, relay: DatabaseRelay) -> None:
    request = await ask(storage, "m1")
    await relay.cut()
    waiting = asyncio.create_task(storage.outbox.posting(part(request)))
    reading = asyncio.create_task(storage.history.turns(KEY))
    await asyncio.sleep(0.1)
    storage.stop_waiting()
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(waiting, reading, return_exceptions=True)
    assert all(isinstance(outcome, StorageError) for outcome in outcomes)


async def test_a_lock_of_another_program_does_not_end_the_writes_of_a_stop(storage: Storage, url: SecretStr) -> None:
    request = await ask(storage, "m1")
    storage.stop_waiting()
    engine = create_engine(driver_url(url.get_secret_value()))
    with engine.begin() as other:
        other.exec_driver_sql("SELECT 1 FROM requests FOR UPDATE")
        with pytest.raises(StorageError, match="locked"):
            await storage.inbox.cancel(request.request_id)  # after the lock timeout of two seconds
    engine.dispose()
    await storage.inbox.cancel(request.request_id)


@pytest.mark.fault(6)
async def test_an_older_edit_that_waits_for_a_newer_one_of_another_host_changes_nothing(
    storage: Storage, postgresql: PostgresqlProcess, url: SecretStr
) -> None:
    await storage.history.add(said("m1"))
    (turn,) = await storage.history.turns(KEY)
    engine = create_engine(driver_url(url.get_secret_value()))
    with engine.begin() as other:
        other.exec_driver_sql("UPDATE turns SET text = 'newer', edited_at = 2")
        older = asyncio.create_task(
            storage.history.edit(KEY, "m1", "older", [Picture("old.png", "image/png", b"old", 1, 1)], edited_at=1.0)
        )
        while postgresql.execute("SELECT count(*) FROM pg_locks WHERE NOT granted", url) == [(0,)]:  # noqa: ASYNC110 -- the server does not tell
            await asyncio.sleep(0.01)
    engine.dispose()
    assert not await older
    assert texts(await storage.history.turns(KEY)) == ["newer"]
    assert await storage.history.pictures([turn.id], 1) == {}


async def test_connections_from_before_a_restart_of_the_server_are_replaced(
    storage: Storage, relay: DatabaseRelay
) -> None:
    await ask(storage, "m1")
    await asyncio.gather(*(storage.history.turns(KEY) for _ in range(10)))
    await relay.cut()
    await relay.start()
    await ask(storage, "m2")
    assert len(await storage.history.turns(KEY)) == 2


@pytest.mark.usefixtures("short_leases")
async def test_a_standby_waits_until_no_other_host_is_alive(tmp_path: Path, url: SecretStr) -> None:
    first, waited_for = await Storage.open(tmp_path / "first", url), list[str]()
    opening = asyncio.create_task(Storage.open(tmp_path / "second", url, standby=waited_for.append))
    await asyncio.sleep(2 * postgresql.LEASE_S)
    assert set(waited_for) == {(tmp_path / "first" / "instance").read_text()}
    assert not opening.done()
    await ask(first, "m1")
    await first.close()
    second = await asyncio.wait_for(opening, 10)
    assert [request.message_id for request in await of(second)] == ["m1"]
    await second.close()


@pytest.mark.usefixtures("short_leases")
async def test_a_host_that_was_declared_dead_writes_nothing_any_more(
    tmp_path: Path, url: SecretStr, relay: DatabaseRelay
) -> None:
    first = await Storage.open(tmp_path / "first", relay.url(url))
    second = await Storage.open(tmp_path / "second", url)
    running, waiting = await ask(first, "m1"), await ask(first, "m2")
    assert await first.inbox.start(running.request_id)
    assert await of(second) == []  # it is alive
    await relay.cut()  # the first one cannot renew its lease
    await asyncio.sleep(1.5 * postgresql.LEASE_S)
    taken_over = await of(second)
    assert taken_over == [replace(running, attempts=1, service_runs=1), waiting]
    await relay.start()
    async with asyncio.timeout(10):
        with pytest.raises(StorageError, match="has taken over"):
            await first.until_taken()
    with pytest.raises(StorageError, match="has taken over"):
        await accept(first, "m3")
    await first.close()
    assert texts(await second.history.turns(KEY)) == ["hello", "hello"]
    await ask(second, "m3")
    await second.close()


async def of(storage: Storage) -> list[GenerationRequest]:
    """What is taken over from the other host."""
    (dead,) = [host for host in await storage.hosts.all() if host.name != storage.hosts.this]
    found = await storage.hosts.take_over(dead)
    return [] if found is None else found[0]


async def test_a_restart_after_a_crash_does_not_wait_for_its_own_claim(
    tmp_path: Path, url: SecretStr, postgresql: PostgresqlProcess
) -> None:
    await (await Storage.open(tmp_path, url)).close()
    postgresql.execute("UPDATE hosts SET expires_at = 9e9", url)  # as a killed process leaves it
    began = time.monotonic()
    storage = await Storage.open(tmp_path, url)
    assert time.monotonic() - began < 5
    await storage.close()


@pytest.mark.usefixtures("short_leases")
@pytest.mark.parametrize("standby", [None, lambda _: None], ids=["host", "standby"])
@pytest.mark.fault(15)
async def test_a_copied_state_directory_is_refused_while_its_original_runs(
    tmp_path: Path, url: SecretStr, standby: Callable[[str], None] | None
) -> None:
    first = await Storage.open(tmp_path / "first", url)
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    with pytest.raises(StateLocked, match=f"{first.hosts.this} is running, .* delete the file 'instance'"):
        await asyncio.wait_for(Storage.open(tmp_path / "copy", url, standby=standby), 30)
    await ask(first, "m1")
    (tmp_path / "copy" / "instance").unlink()
    second = await Storage.open(tmp_path / "copy", url)
    assert first.hosts.this != second.hosts.this
    await second.close()
    await first.close()


@pytest.mark.usefixtures("short_leases")
@pytest.mark.parametrize("left", [f"{postgresql.NOW} + 1.5", "1", "-1"], ids=["was killed", "is dead", "has ended"])
async def test_a_state_directory_that_was_moved_is_used_once_the_old_lease_has_ended(
    tmp_path: Path, url: SecretStr, postgresql: PostgresqlProcess, left: str
) -> None:
    first = await Storage.open(tmp_path / "first", url)
    await first.close()
    shutil.copytree(tmp_path / "first", tmp_path / "moved")
    postgresql.execute(f"UPDATE hosts SET expires_at = {left}", url)
    moved = await asyncio.wait_for(Storage.open(tmp_path / "moved", url), 30)
    assert moved.hosts.this == first.hosts.this
    await ask(moved, "m1")
    await moved.close()


async def test_an_empty_database_becomes_exactly_the_tables_of_the_metadata(tmp_path: Path, url: SecretStr) -> None:
    for _ in range(2):  # the second time there is nothing to migrate
        await (await Storage.open(tmp_path, url)).close()
    engine = create_engine(driver_url(url.get_secret_value()))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


async def test_hosts_that_start_at_once_migrate_one_after_the_other(tmp_path: Path, url: SecretStr) -> None:
    opened = await asyncio.gather(*(Storage.open(tmp_path / str(number), url) for number in range(4)))
    for number, storage in enumerate(opened):
        await ask(storage, f"m{number}")
    assert [row.request.message_id for row in await opened[0].hosts.unfinished()] == ["m0", "m1", "m2", "m3"]
    for storage in opened:
        await storage.close()


async def test_no_statement_stays_prepared_in_a_session(storage: Storage) -> None:
    seen: list[int] = []

    def look(connection: Connection) -> None:
        seen.append(connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one())

    with listening(Engine, "commit", look):
        for number in range(20):
            await ask(storage, f"m{number}")
            await storage.history.turns(KEY)
    assert set(seen) == {0}


async def test_a_text_with_nul_is_stored_without_it(storage: Storage) -> None:
    await ask(storage, "m1", "a\0b")
    assert texts(await storage.history.turns(KEY)) == ["a\ufffdb"]


async def test_an_error_quotes_no_row(storage: Storage) -> None:
    broken = replace(said("m1", "the canary"), role=cast(Role, "nobody"))
    with pytest.raises(StorageError, match="ck_turns_role") as caught:
        await storage.inbox.accept(KEY, "m1", turns=[broken])
    assert "the canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"database": "nothing"}, r"refuses the connection \(.*does not exist\): create it"),
        ({"user": "nobody"}, r"refuses the connection \(.*does not exist\): create the user"),
        ({"user": "guarded", "password": PASSWORD}, r"password authentication failed .*\): correct the user or"),
        ({"user": "guarded"}, r"no password supplied\): add the password to INHOUSE_DATABASE_URL"),
    ],
)
async def test_a_refused_connection_names_what_to_change(
    postgresql: PostgresqlProcess, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    if not postgresql.execute("SELECT 1 FROM pg_roles WHERE rolname = 'guarded'"):
        postgresql.execute("CREATE ROLE guarded LOGIN PASSWORD 'another one'")
    with pytest.raises(ConfigError, match=sentence) as caught:
        await Storage.open(tmp_path, postgresql.url(**{"database": "postgres", **change}))
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)


async def test_a_server_that_is_down_is_an_error_that_a_restart_may_cure(tmp_path: Path, relay: DatabaseRelay) -> None:
    await relay.cut()
    with pytest.raises(StorageError, match=r"cannot be reached \(.*refused.*\): start PostgreSQL there"):
        await Storage.open(tmp_path, SecretStr(f"postgresql://postgres@127.0.0.1:{relay.port}/inhouse"))


async def test_a_server_that_starts_or_stops_is_no_mistake_of_the_configuration(tmp_path: Path) -> None:
    server = PostgresqlProcess()
    try:
        server.start()
        engine = create_engine(driver_url(server.url().get_secret_value()))
        with engine.connect():  # the server waits for the end of this session
            server.send(signal.SIGTERM)
            error = None
            while error is None:  # until the server has noticed the signal
                try:
                    await (await Storage.open(tmp_path, server.url())).close()
                except StorageError as refused:
                    error = refused
            assert re.search(r"cannot be reached \(.*shutting down\)", str(error))
        engine.dispose()
    finally:
        server.close()


async def test_a_host_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match=r"inhouse on nowhere\.invalid .*correct the host in INHOUSE_DATABASE_URL"):
        await Storage.open(tmp_path, SecretStr("postgresql://ann@nowhere.invalid/inhouse"))


async def test_a_user_without_rights_is_told_which_are_missing(
    tmp_path: Path, postgresql: PostgresqlProcess, url: SecretStr
) -> None:
    postgresql.execute("CREATE ROLE reader LOGIN")
    database = url.get_secret_value().split("/")[3].split("?")[0]
    with pytest.raises(InhouseError, match=r"does not allow this \(permission denied .*OWNER TO"):
        await Storage.open(tmp_path, postgresql.url(database, user="reader"))


async def test_a_database_of_another_encoding_is_refused(tmp_path: Path, postgresql: PostgresqlProcess) -> None:
    postgresql.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'")
    with pytest.raises(ConfigError, match="has the encoding SQL_ASCII"):
        await Storage.open(tmp_path, postgresql.url("latin"))


async def test_an_old_server_is_refused(tmp_path: Path, url: SecretStr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "OLDEST", 99)
    with pytest.raises(ConfigError, match="Inhouse needs version 99 or newer"):
        await Storage.open(tmp_path, url)


async def test_without_the_driver_its_package_is_named(
    tmp_path: Path, url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'inhouse\[postgres\]'"):
        await Storage.open(tmp_path, url)
