"""Copies the database to one file while a service may be using it.

The copy is a consistent snapshot, passed an integrity check, and appears at its path only when it is complete. Writers
do not wait for it.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bot.storage.atomic_file import new_file
from bot.storage.db_errors import damaged, mapped
from bot.storage.readonly import database_in, read_only_connection
from bot.types.errors import ConfigError

STEP_PAGES = 1000
"""Pages copied between two progress reports."""

Progress = Callable[[int, int], None]
"""Called with the number of copied pages and the total."""


def back_up(directory: Path, target: Path, progress: Progress, *, force: bool = False) -> int:
    """Copy the database of a state directory to `target`; returns the size in bytes.

    Raises ConfigError (no database; `target` exists and force is False), StorageError.
    """
    path = database_in(directory)
    if target.resolve().parent == path.resolve().parent and target.name.startswith(path.name + "-"):
        raise ConfigError(f"{target} is a name that the database itself uses: choose another one.")
    if target.resolve() == path.resolve():
        raise ConfigError(f"{target} is the database itself: choose another file.")
    with new_file(target, force=force) as copy:
        with mapped(path):
            source = read_only_connection(path)
        with closing(source), mapped(target):
            _copy(source, copy, progress)
            _check(path, copy)
        return copy.stat().st_size


def _copy(source: sqlite3.Connection, copy: Path, progress: Progress) -> None:
    # One read transaction for the whole copy: otherwise each write in between makes SQLite restart it.
    source.execute("BEGIN")
    source.execute("SELECT count(*) FROM sqlite_master").fetchone()
    with closing(sqlite3.connect(copy, isolation_level=None)) as into:
        source.backup(into, pages=STEP_PAGES, progress=lambda _, left, total: progress(total - left, total))
        into.execute(
            "PRAGMA journal_mode = DELETE"
        ).fetchone()  # without WAL the copy is one file, readable on a read-only disk
    source.execute("ROLLBACK")


def _check(path: Path, copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        verdict = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    if verdict != "ok":
        raise damaged(path, verdict)
