"""Examine the database of a state directory for `inhouse doctor`, also while its Inhouse is running.

Nothing is written or made, and no writer waits for it.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from bot.storage.db_errors import mapped
from bot.storage.files import check_database_files
from bot.storage.readonly import NAME, opened
from bot.storage.schema_version import newest, version_of
from bot.types.errors import StateFromElsewhere


@dataclass(frozen=True, slots=True)
class Examination:
    """verdict: 'ok', or SQLite's word for the damage. mismatch: what is wrong with the version of the tables, '' if
    nothing is; newest: whether it is the last one. bytes and free: the file's size, and how much of it is unused."""

    verdict: str
    mismatch: str
    newest: bool
    bytes: int
    free: int


def examine_database(directory: Path) -> Examination | None:
    """How the database in `directory` is, None if there is none. Reads all of it. Raises ConfigError, StorageError."""
    path = directory / NAME
    check_database_files(path)
    with mapped(path):
        if not path.exists():
            return None
        # SQLite makes files beside a database that it only reads, unless they are there or it is told not to care.
        at_rest = not path.with_name(f"{path.name}-wal").exists()
        with opened(path, at_rest) as connection:
            verdict = str(_value(connection, "PRAGMA quick_check(1)"))
            page, free = int(_value(connection, "PRAGMA page_size")), int(_value(connection, "PRAGMA freelist_count"))
            up_to_date, mismatch = False, ""
            if verdict == "ok":
                try:
                    up_to_date = version_of(connection, path) == newest()
                except StateFromElsewhere as error:
                    mismatch = str(error)
        return Examination(verdict, mismatch, up_to_date, path.stat().st_size, page * free)


def _value(connection: Connection, statement: str) -> int | str:
    found: int | str = connection.exec_driver_sql(statement).scalar_one()
    return found
