"""Tests things that are no files in place of a state file, and tables of another version: one sentence and exit 78."""

import os
import resource
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bot.cli import main
from bot.config.settings import load_settings
from bot.doctor import state_checks
from bot.observability.file_descriptors import ENOUGH
from bot.storage import Storage, is_held, schema_version
from bot.storage.lock import StateLock
from bot.types.errors import EX_CONFIG, ConfigError, StateFromElsewhere, StateLocked
from bot.types.findings import State
from tests.support.builders.findings import about, complete
from tests.support.builders.not_files import OTHERS
from tests.support.builders.storage_rows import of_version, rows

pytestmark = [pytest.mark.fault(53), pytest.mark.timeout(60)]


FILES = ("lock", "inhouse.db", "inhouse.db-wal", "inhouse.db-shm")
COMMANDS = {
    "run": ("run",),
    "export": ("export",),
    "backup": ("backup", "copy.db"),
    "upgrade": ("db", "upgrade"),
}


@pytest.fixture
def ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> Callable[..., tuple[int, str]]:
    """Runs a command in this process; its exit status and stderr."""
    (home / "state").chmod(0o700)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["inhouse", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        return end.value.code, capsys.readouterr().err

    return run


@pytest.fixture
def a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets a token, so that `run` reaches the state."""
    monkeypatch.setenv("DISCORD_BOT_TOKEN", "MTA1NjQ3ODk4NzY1NDMyMTA5OA.GxYzAb.abcdefghijklmnopqrstuvwxyz0123456789AB")


async def make_state(directory: Path) -> None:
    await (await Storage.open(directory)).close()


@contextmanager
def another_user() -> Iterator[None]:
    """Switches to a user who owns none of the files, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def is_one_sentence(text: str, path: Path) -> None:
    last = text.strip().splitlines()[-1]
    assert str(path) in last, text
    assert "Traceback" not in text


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", FILES)
async def test_something_else_in_the_place_of_a_file_is_a_sentence(
    ends: Callable[..., tuple[int, str]], home: Path, kind: str, name: str
) -> None:
    await make_state(home / "state")
    path = home / "state" / name
    path.unlink(missing_ok=True)
    OTHERS[kind](path)
    with pytest.raises(ConfigError) as caught:
        await Storage.open(home / "state")
    is_one_sentence(str(caught.value), path)
    settings = load_settings()
    checked = "instance" if name == "lock" else "database"
    findings = [*state_checks.directory(settings), *state_checks.database(settings)]
    assert about(findings, checked).state is State.WRONG
    assert complete(findings)
    if name == "lock":
        assert not state_checks.running(settings)


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("kind", ["a FIFO", "a dangling link"])
def test_every_command_that_opens_the_database_says_it(
    ends: Callable[..., tuple[int, str]], a_token: None, home: Path, kind: str, words: tuple[str, ...]
) -> None:
    path = home / "state" / "inhouse.db"
    OTHERS[kind](path)
    status, told = ends(*words)
    assert status == EX_CONFIG, told
    is_one_sentence(told, path)


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("kind", OTHERS)
def test_a_state_directory_that_is_none_is_a_sentence(
    ends: Callable[..., tuple[int, str]], a_token: None, home: Path, kind: str, words: tuple[str, ...]
) -> None:
    if kind == "a directory":
        return
    (home / "state").rmdir()
    OTHERS[kind](home / "state")
    status, told = ends(*words)
    assert status == EX_CONFIG, told
    is_one_sentence(told, home / "state")
    assert about(state_checks.directory(load_settings()), "state").state is State.WRONG


def reachable(home: Path) -> None:
    """Makes the parents of the state directory accessible to all users, and the directory to none."""
    for each in (home, *home.parents):
        if each.name.startswith(("pytest-", "popen-", "test_")):
            each.chmod(0o755)
    (home / "state").chmod(0o000)


async def test_a_state_of_another_user_is_a_sentence(home: Path) -> None:
    await make_state(home / "state")
    reachable(home)
    settings = load_settings()
    try:
        with another_user():
            with pytest.raises(ConfigError) as caught:
                await Storage.open(home / "state")
            is_one_sentence(str(caught.value), home / "state")
            assert not state_checks.running(settings)
            assert about(state_checks.directory(settings), "instance").state is State.WRONG
            assert about(state_checks.database(settings), "database").state is State.WRONG
    finally:
        (home / "state").chmod(0o700)


@pytest.mark.parametrize("mode", [None, 0o644, 0o666])
def test_the_lock_file_is_for_its_owner_alone(tmp_path: Path, mode: int | None) -> None:
    path = tmp_path / "lock"
    if mode is not None:
        path.touch()
        path.chmod(mode)
    before = os.umask(0)
    try:
        lock = StateLock(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert is_held(tmp_path)
    with pytest.raises(StateLocked):
        StateLock(tmp_path)
    lock.release()
    lock.release()
    assert not is_held(tmp_path)


def test_a_lock_that_is_refused_leaves_no_descriptor_open(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    lowest = os.dup(0)
    os.close(lowest)
    for _ in range(20):
        with pytest.raises(StateLocked):
            StateLock(tmp_path)
        assert is_held(tmp_path)
    again = os.dup(0)
    os.close(again)
    assert again == lowest
    lock.release()


# versions


STAMPS = {
    "the first version": "UPDATE alembic_version SET version_num = '0001'",
    "no version": "DELETE FROM alembic_version",
    "no table of versions": "DROP TABLE alembic_version",
    "two versions": "INSERT INTO alembic_version VALUES ('0001')",
    "an unknown version": "UPDATE alembic_version SET version_num = '9999'",
    "a table less": "DROP TABLE turns",
    "a column less": "ALTER TABLE turns DROP COLUMN text",
}


@pytest.mark.parametrize("stamp", STAMPS)
async def test_tables_that_are_not_of_their_version_name_a_way_out(
    ends: Callable[..., tuple[int, str]], a_token: None, home: Path, stamp: str
) -> None:
    directory = home / "state"
    await make_state(directory)
    rows(directory, STAMPS[stamp])
    before = (directory / "inhouse.db").read_bytes()
    with pytest.raises(StateFromElsewhere, match="restore a") as caught:
        await Storage.open(directory)
    is_one_sentence(str(caught.value), directory / "inhouse.db")
    assert (directory / "inhouse.db").read_bytes() == before
    found = about(state_checks.database(load_settings()), "database")
    assert (found.state, bool(found.fix)) == (State.WRONG, True)


@pytest.mark.parametrize("words", [("run",), ("export",), ("db", "upgrade")])
def test_every_command_names_the_way_out(
    ends: Callable[..., tuple[int, str]], a_token: None, home: Path, words: tuple[str, ...]
) -> None:
    of_version(home / "state", "head")
    rows(home / "state", STAMPS["the first version"])
    status, told = ends(*words)
    assert status == EX_CONFIG, told
    is_one_sentence(told, home / "state" / "inhouse.db")
    assert ends("backup", str(home / "copy.db"))[0] == 0, "what is there can be copied all the same"


@pytest.mark.parametrize("version", sorted(schema_version.known_versions()))
async def test_every_earlier_version_is_brought_up_to_date(home: Path, version: str) -> None:
    of_version(home / "state", version)
    assert about(state_checks.database(load_settings()), "database").state is State.OK
    await make_state(home / "state")
    assert rows(home / "state", "SELECT version_num FROM alembic_version") == [(schema_version.newest(),)]


async def test_a_database_may_be_a_link_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real.db").touch()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "inhouse.db").symlink_to(tmp_path / "disk" / "real.db")
    for _ in range(2):
        await make_state(tmp_path / "state")
    assert (tmp_path / "disk" / "real.db").stat().st_size


@pytest.mark.fault(51)
def test_the_service_raises_its_soft_limit_of_descriptors(
    ends: Callable[..., tuple[int, str]], a_token: None, home: Path
) -> None:
    (home / "state" / "inhouse.db").mkdir()  # makes the command end at once
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert ends("run")[0] == EX_CONFIG
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(ENOUGH, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
