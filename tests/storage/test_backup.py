"""Tests `inhouse backup` and `inhouse db upgrade`: a complete copy while the service writes, and no partial files."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine

from bot.storage import Storage, backup
from bot.storage.backup import back_up
from bot.storage.manual_upgrade import upgrade as bring_up_to_date
from bot.storage.schema_version import alembic_config, newest
from bot.types.errors import ConfigError, StateLocked, StorageError
from tests.cli.test_cli import ROOT
from tests.support.builders.cli import Inhouse
from tests.support.builders.service import run_service
from tests.support.builders.storage_rows import KEY, answer, ask, part, rows, texts
from tests.support.fakes.scripted_platform import ScriptedPlatform

pytest_plugins = ["tests.support.fixtures.cli"]


def unseen(done: int, total: int) -> None:
    """Ignores the progress of a copy."""


def inside(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        return connection.execute(query).fetchall()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def fill(directory: Path, number: int = 1) -> None:
    storage = await Storage.open(directory)
    for each in range(number):
        request = await ask(storage, f"m{each}", "a question", at=float(each))
        await answer(storage, request, "an answer", part(request))
    await storage.close()


async def test_a_backup_is_one_sound_file_for_its_owner_alone(tmp_path: Path) -> None:
    await fill(tmp_path / "state")
    target = tmp_path / "copies" / "copy.db"
    target.parent.mkdir()
    seen: list[tuple[int, int]] = []
    size = back_up(tmp_path / "state", target, lambda *step: seen.append(step))
    assert [path.name for path in target.parent.iterdir()] == ["copy.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert size == target.stat().st_size
    assert seen[-1][0] == seen[-1][1] > 0
    assert inside(target, "PRAGMA integrity_check") == [("ok",)]
    assert inside(target, "SELECT text FROM turns ORDER BY id") == [("a question",), ("an answer",)]


async def test_a_backup_of_a_running_service_is_one_moment_and_delays_no_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path / "state", 5)
    monkeypatch.setattr(backup, "STEP_PAGES", 2)
    storage = await Storage.open(tmp_path / "state")
    loop, written = asyncio.get_running_loop(), 0

    def between(done: int, total: int) -> None:  # in the backup's thread: stores a message meanwhile
        nonlocal written
        asyncio.run_coroutine_threadsafe(ask(storage, f"new{written}", at=100.0), loop).result(10)
        written += 1

    await asyncio.to_thread(back_up, tmp_path / "state", tmp_path / "copy.db", between)
    await storage.close()
    assert written > 5
    counts = "SELECT (SELECT count(*) FROM inbox), (SELECT count(*) FROM requests)"
    assert inside(tmp_path / "copy.db", counts) == [(5, 5)]
    assert rows(tmp_path / "state", counts) == [(5 + written, 5 + written)]


async def test_a_service_that_starts_on_a_restored_backup_has_its_history(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform:
        await back_up_and_restore(tmp_path, platform)


async def back_up_and_restore(tmp_path: Path, platform: ScriptedPlatform) -> None:
    async with run_service(tmp_path, platform) as setup:
        team = setup.team
        await team.asks("ana", "before the backup")
        done = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "bot.cli", "backup", str(tmp_path / "copy.db")),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "INHOUSE_STATE_DIR": str(tmp_path / "state")},
            stderr=subprocess.PIPE,
        )
        _, told = await done.communicate()
        assert (done.returncode, f"to {tmp_path / 'copy.db'} (" in told.decode()) == (0, True), told
        await team.asks("ana", "after the backup")
        await setup.stop()
    for path in (tmp_path / "state").glob("inhouse.db*"):
        path.unlink()
    (tmp_path / "state" / "inhouse.db").write_bytes((tmp_path / "copy.db").read_bytes())
    async with run_service(tmp_path, platform) as setup:
        await team.asks("ana", "now")
        read = [turn.text for turn in setup.engine.prompt_of("now").prompt.turns]
    assert [read[0], read[1], read[-1]] == ["before the backup", "You said: before the backup", "now"]


async def test_what_is_there_is_only_replaced_when_that_was_asked_for(tmp_path: Path) -> None:
    await fill(tmp_path / "state")
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(ConfigError, match=r"exists already: name another file, or add --force"):
        back_up(tmp_path / "state", target, unseen)
    assert target.read_text() == "precious"
    back_up(tmp_path / "state", target, unseen, force=True)
    assert inside(target, "SELECT count(*) FROM requests") == [(1,)]


@pytest.mark.parametrize("name", ["state/inhouse.db", "state/inhouse.db-wal", "state", "nowhere/copy.db"])
async def test_a_place_where_no_backup_can_be_is_a_mistake(tmp_path: Path, name: str) -> None:
    await fill(tmp_path / "state")
    with pytest.raises(ConfigError, match=r"name|choose"):
        back_up(tmp_path / "state", tmp_path / name, unseen, force=True)
    assert rows(tmp_path / "state", "SELECT count(*) FROM requests") == [(1,)]


async def test_a_damaged_database_gives_no_backup_and_leaves_the_last_one(tmp_path: Path) -> None:
    await fill(tmp_path / "state", 20)
    back_up(tmp_path / "state", tmp_path / "copy.db", unseen)
    before = (tmp_path / "copy.db").read_bytes()
    path = tmp_path / "state" / "inhouse.db"
    content = path.read_bytes()
    path.write_bytes(content[: 4 * 4096] + b"\x55" * (len(content) - 4 * 4096))
    with pytest.raises(StorageError, match="is damaged"):
        back_up(tmp_path / "state", tmp_path / "copy.db", unseen, force=True)
    assert (tmp_path / "copy.db").read_bytes() == before
    assert names(tmp_path) == ["copy.db", "state"]


def test_the_commands_want_a_database(inhouse: Inhouse) -> None:
    for words in (("backup", "copy.db"), ("export",), ("db", "upgrade")):
        status, out, err = inhouse(*words)
        assert (status, out) == (78, "")
        assert err.startswith("inhouse: No database in ")
        assert err.count("\n") == 1


def make_old(directory: Path) -> None:
    """Makes a database of version 0002 with a question, in a file without incremental vacuum."""
    directory.mkdir()
    engine = create_engine(f"sqlite:///{directory / 'inhouse.db'}")
    with engine.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.exec_driver_sql(
            "INSERT INTO turns "
            "(platform, workspace, channel, thread, role, author_id, author, text, message_id, sent_at, hidden) "
            "VALUES ('discord', 'guild', 'channel', 'thread', 'user', '1', 'Ann', 'an old question', 'm', 1, 0)"
        )
    engine.dispose()


async def test_upgrade_says_from_where_to_where_keeps_a_copy_and_packs_the_file(inhouse: Inhouse, home: Path) -> None:
    state = home / "state"
    state.rmdir()
    make_old(state)
    status, out, err = await asyncio.to_thread(inhouse, "db", "upgrade")
    (copy,) = state.glob("inhouse.db.0002.*")
    assert (status, out) == (0, "")
    assert (
        err == f"Upgraded the database from version 0002 to version {newest()}. The backup of the old one is {copy}.\n"
    )
    assert inside(copy, "SELECT version_num FROM alembic_version") == [("0002",)]
    assert rows(state, "PRAGMA auto_vacuum") == [(2,)]
    storage = await Storage.open(state)
    assert texts(await storage.history.turns(KEY)) == ["an old question"]
    await storage.close()
    status, _, err = await asyncio.to_thread(inhouse, "db", "upgrade")
    assert (status, err) == (0, f"The database in {state} is up to date: version {newest()}.\n")
    assert list(state.glob("inhouse.db.*")) == [copy]


async def test_upgrade_leaves_a_database_alone_that_is_in_use(tmp_path: Path) -> None:
    make_old(tmp_path / "state")
    storage = await Storage.open(tmp_path / "state")
    with pytest.raises(StateLocked, match="in use by another Inhouse: stop that one"):
        await bring_up_to_date(tmp_path / "state", unseen)
    await storage.close()


@pytest.mark.parametrize("words", [("db", "upgrade"), ("export",)])
async def test_a_database_of_a_newer_version_is_left_alone(
    inhouse: Inhouse, home: Path, words: tuple[str, ...]
) -> None:
    await fill(home / "state")
    rows(home / "state", "UPDATE alembic_version SET version_num = '9999'")
    status, out, err = await asyncio.to_thread(inhouse, *words)
    assert (status, out) == (78, "")
    assert "its schema is of version 9999" in err
    assert err.count("\n") == 1


async def test_run_ends_with_78_on_a_database_of_a_newer_version(tmp_path: Path) -> None:
    await fill(tmp_path / "state")
    rows(tmp_path / "state", "UPDATE alembic_version SET version_num = '9999'")
    done = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bot.cli", "run"),
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "INHOUSE_STATE_DIR": str(tmp_path / "state"),
            "DISCORD_BOT_TOKEN": "a.token",
            "INHOUSE_HTTP": "off",
        },
        stderr=subprocess.PIPE,
    )
    _, told = await done.communicate()
    assert done.returncode == 78
    last = told.decode().splitlines()[-1]
    assert "install that version or a newer one" in last
    assert "Traceback" not in told.decode()
