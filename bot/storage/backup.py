"""A copy of the database, made while a service may be using it.

In: a state directory and a file's name. Out: the file, which holds one moment of the database and needs no other file
beside it. Promises: the copy was found sound; until it is complete there is none; nobody who writes waits for it.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bot.storage.atomic_file import new_file
from bot.storage.db_errors import damaged, mapped
from bot.storage.readonly import database_in, read_only
from bot.types.errors import ConfigError

STEP_PAGES = 1000
"""Pages that are copied between two reports of progress."""

Progress = Callable[[int, int], None]
"""Is told how many pages are copied, and of how many."""


def back_up(directory: Path, target: Path, progress: Progress, *, force: bool = False) -> int:
    """Copy the database of a state directory into `target`; its size in bytes.

    Raises ConfigError (no database; `target` is there already and not to be replaced), StorageError.
    """
    path = database_in(directory)
    if target.resolve().parent == path.resolve().parent and target.name.startswith(path.name + "-"):
        raise ConfigError(f"{target} is a name that the database itself uses: choose another one.")
    if target.resolve() == path.resolve():
        raise ConfigError(f"{target} is the database itself: choose another file.")
    with new_file(target, force=force) as copy:
        with mapped(path):
            source = read_only(path)
        with closing(source), mapped(target):
            _copy(source, copy, progress)
            _check(path, copy)
        return copy.stat().st_size


def _copy(source: sqlite3.Connection, copy: Path, progress: Progress) -> None:
    # One transaction around it all: else every message that is stored meanwhile makes SQLite begin from the start.
    source.execute("BEGIN")
    source.execute("SELECT count(*) FROM sqlite_master").fetchone()
    with closing(sqlite3.connect(copy, isolation_level=None)) as into:
        source.backup(into, pages=STEP_PAGES, progress=lambda _, left, total: progress(total - left, total))
        into.execute(
            "PRAGMA journal_mode = DELETE"
        ).fetchone()  # so that it is one file, and can lie on a read-only disk
    source.execute("ROLLBACK")


def _check(path: Path, copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        verdict = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    if verdict != "ok":
        raise damaged(path, verdict)
