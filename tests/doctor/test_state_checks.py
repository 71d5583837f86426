"""Tests `inhouse doctor` for the state directory, and that it changes nothing there."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from bot.config.settings import Settings, load_settings
from bot.doctor import settings_checks, state_checks
from bot.models.hardware import child_environment
from bot.storage import Storage
from bot.storage.lock import StateLock
from bot.types.errors import StateLocked
from bot.types.findings import State
from tests.support.builders.findings import about, complete, states
from tests.support.builders.storage_rows import of_version


@pytest.fixture
def settings(home: Path) -> Settings:
    (home / "state").chmod(0o700)
    return load_settings()


def listing(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_new_directory_is_well_and_stays_as_it_is(settings: Settings) -> None:
    found = [*state_checks.directory(settings), *state_checks.disk(settings), *state_checks.database(settings)]
    assert {finding.state for finding in found} == {State.OK}
    assert list(settings.state_dir.iterdir()) == []
    settings.state_dir.rmdir()
    assert "the first start creates it" in about(state_checks.directory(settings), "state").found
    assert not settings.state_dir.exists()


def test_others_must_not_look_into_it(settings: Settings) -> None:
    settings.state_dir.chmod(0o755)
    found = about(state_checks.directory(settings), "state")
    assert (found.state, found.fix) == (State.WARNING, f"`chmod 700 {settings.state_dir}`")


def test_a_file_in_its_place_is_wrong(settings: Settings) -> None:
    settings.state_dir.rmdir()
    settings.state_dir.write_text("")
    assert states(state_checks.directory(settings)) == {"state": State.WRONG}


def test_a_directory_that_cannot_be_written_is_wrong(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    found = about(state_checks.directory(settings), "state")
    assert (found.state, "INHOUSE_STATE_DIR" in found.fix) == (State.WRONG, True)


@contextmanager
def another_process(directory: Path) -> Iterator[None]:
    """A process that holds the state lock."""
    script = f"import pathlib; from bot.storage.lock import StateLock; l = StateLock(pathlib.Path({str(directory)!r}));"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{script} print('held', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(),
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
        process.kill()


def test_a_running_instance_is_said_and_not_disturbed(settings: Settings) -> None:
    with another_process(settings.state_dir):
        assert about(state_checks.directory(settings), "instance").found == "Inhouse is running and uses this directory"
        assert state_checks.running(settings)
        with pytest.raises(StateLocked):
            StateLock(settings.state_dir)
    assert not state_checks.running(settings)
    assert "not running" in about(state_checks.directory(settings), "instance").found
    StateLock(settings.state_dir).release()


async def test_a_sound_database_is_read_and_not_written(settings: Settings) -> None:
    storage = await Storage.open(settings.state_dir)
    before = set(listing(settings.state_dir))
    (found,) = state_checks.database(settings)  # while the database is open
    assert (found.state, found.found.startswith("no damage, ")) == (State.OK, True)
    assert set(listing(settings.state_dir)) == before
    await storage.close()
    content = listing(settings.state_dir)
    assert states(state_checks.database(settings)) == {"database": State.OK}
    assert listing(settings.state_dir) == content


async def test_what_a_crash_left_is_read_too(settings: Settings, tmp_path: Path) -> None:
    storage = await Storage.open(settings.state_dir)
    shutil.copytree(settings.state_dir, tmp_path / "copy")
    await storage.close()
    assert (tmp_path / "copy" / "inhouse.db-wal").stat().st_size
    assert states(state_checks.database(load_settings(state_dir=tmp_path / "copy"))) == {"database": State.OK}


async def test_a_damaged_database_is_wrong(settings: Settings) -> None:
    await (await Storage.open(settings.state_dir)).close()
    path = settings.state_dir / "inhouse.db"
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)
    (found,) = state_checks.database(settings)
    assert (found.state, "move" in found.fix.lower()) == (State.WRONG, True)
    path.write_bytes(b"no database at all, " * 500)
    (found,) = state_checks.database(settings)
    assert (found.state, "is damaged" in found.found) == (State.WRONG, True)
    assert complete([found])


async def test_the_version_of_the_tables_is_looked_at(settings: Settings) -> None:
    of_version(settings.state_dir, "0001")
    assert "older than this version" in about(state_checks.database(settings), "database").found
    await (await Storage.open(settings.state_dir)).close()
    with closing(sqlite3.connect(settings.state_dir / "inhouse.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    (found,) = state_checks.database(settings)
    assert (found.state, "9999" in found.found) == (State.WRONG, True)


async def test_unused_pages_are_reported(settings: Settings) -> None:
    await (await Storage.open(settings.state_dir)).close()
    with closing(sqlite3.connect(settings.state_dir / "inhouse.db")) as connection:
        connection.execute("CREATE TABLE large (content)")
        connection.execute("INSERT INTO large VALUES (zeroblob(100000))")
        connection.execute("DROP TABLE large")
        connection.commit()
    assert " unused)" in about(state_checks.database(settings), "database").found


@pytest.mark.parametrize(("free", "expected"), [(10**12, State.OK), (10**8, State.WARNING), (10**6, State.WRONG)])
def test_a_full_disk_is_reported(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, free: int, expected: State
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    found = list(state_checks.disk(settings))
    assert states(found) == {"disk of state": expected}
    assert complete(found)


def test_an_env_file_with_tokens_is_for_its_owner_alone() -> None:
    path = Path(".env")
    assert list(settings_checks.env_file()) == []
    path.write_text("INHOUSE_MODEL=phi-4\n")
    path.chmod(0o644)
    assert list(settings_checks.env_file()) == []
    path.write_text("DISCORD_BOT_TOKEN = secret\n")
    (found,) = settings_checks.env_file()
    assert (found.state, found.fix) == (State.WARNING, f"`chmod 600 {path.absolute()}`")
    path.chmod(0o600)
    assert list(settings_checks.env_file()) == []
