"""Tests opening the state: by one process, consistent and migrated, or refused with a sentence that says what to do."""

import asyncio
import re
import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine

from bot.storage import Storage
from bot.storage.tables import metadata
from bot.types.errors import ConfigError, StateFromElsewhere, StateLocked, StorageError
from tests.support.builders.storage_rows import KEY, ask, listening, rows

ON_SERVERS = "ix_requests_running"
"""An index that a file does not need."""


async def test_a_new_state_is_for_its_owner_alone(tmp_path: Path) -> None:
    storage = await Storage.open(tmp_path / "deep" / "a 100% new state")
    await storage.close()
    directory = tmp_path / "deep" / "a 100% new state"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "inhouse.db").stat().st_mode) == 0o600


async def test_a_second_opening_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    first = await Storage.open(tmp_path)
    with pytest.raises(StateLocked, match="INHOUSE_STATE_DIR") as caught:
        await Storage.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    await ask(first, "m1")  # the refused one had no effect
    await first.close()
    await first.close()
    second = await Storage.open(tmp_path)
    await second.close()


async def test_a_directory_that_cannot_be_one_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="INHOUSE_STATE_DIR"):
        await Storage.open(tmp_path / "file")


async def test_an_empty_file_becomes_exactly_the_tables_of_the_metadata(tmp_path: Path) -> None:
    (tmp_path / "inhouse.db").touch()
    for _ in range(2):  # the second time there is nothing to migrate
        storage = await Storage.open(tmp_path)
        await storage.close()
    engine = create_engine(f"sqlite:///{tmp_path / 'inhouse.db'}")
    with engine.connect() as connection:
        changes = compare_metadata(MigrationContext.configure(connection), metadata)
        assert [change for change in changes if ON_SERVERS not in str(change)] == []
        migrated = tables_of(connection)
    engine.dispose()
    del migrated["alembic_version"]
    plain = create_engine("sqlite://")
    with plain.begin() as connection:
        metadata.create_all(connection)
        assert migrated == tables_of(connection)
    plain.dispose()


def tables_of(connection: Connection) -> dict[str, set[str]]:
    """The SQL parts of each table, with constraints and options, which compare_metadata ignores."""
    found = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
    return {name: {piece.strip(" \t()") for piece in re.split(r"[,\n]", sql)} for name, sql in found}


@pytest.mark.fault(36)
async def test_every_connection_has_the_settings_that_the_promise_needs(tmp_path: Path) -> None:
    seen = set()

    def look(connection: Connection) -> None:
        for pragma in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys", "secure_delete"):
            seen.add((pragma, connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one()))

    with listening(Engine, "begin", look):
        storage = await Storage.open(tmp_path)
        await asyncio.gather(*(storage.history.turns(KEY) for _ in range(10)))
        await storage.close()
    assert seen == {
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("busy_timeout", 2000),
        ("foreign_keys", 1),
        ("secure_delete", 1),
    }


async def test_a_file_that_is_no_database_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "inhouse.db").write_bytes(b"this was a database once. " * 1000)
    with pytest.raises(StorageError, match=r"is damaged .* restore a backup") as caught:
        await Storage.open(tmp_path)
    assert str(tmp_path / "inhouse.db") in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_file_that_cannot_be_opened_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "inhouse.db").mkdir()
    with pytest.raises(ConfigError, match="is a directory, and Inhouse keeps a file of that name there") as caught:
        await Storage.open(tmp_path)
    assert str(tmp_path / "inhouse.db") in str(caught.value)
    (tmp_path / "inhouse.db").rmdir()
    storage = await Storage.open(tmp_path)  # the failed opening released the lock
    await storage.close()


async def test_damage_is_found_at_the_start(tmp_path: Path) -> None:
    storage = await Storage.open(tmp_path)
    for number in range(100):
        await ask(storage, f"m{number}", "words " * 100)
    await storage.close()
    path = tmp_path / "inhouse.db"
    sound = path.read_bytes()
    a_wrong_count_of_free_pages = sound[:36] + b"\0\0\0\7" + sound[40:]
    overwritten_pages = sound[: 10 * 4096] + b"\x55" * (len(sound) - 10 * 4096)
    for content in (a_wrong_count_of_free_pages, overwritten_pages):
        path.write_bytes(content)
        with pytest.raises(StorageError, match="is damaged"):
            await Storage.open(tmp_path)
    path.write_bytes(sound)
    storage = await Storage.open(tmp_path)
    await storage.close()


async def test_a_state_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    storage = await Storage.open(tmp_path)
    await storage.close()
    rows(tmp_path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StateFromElsewhere, match="another version of Inhouse: its schema is of version 9999"):
        await Storage.open(tmp_path)
