"""Inspects the database of a state directory for `inhouse doctor`, also while the service runs.

Reads only: writes nothing, creates nothing and blocks no writer.
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
    """verdict: 'ok', or the damage that SQLite reports. mismatch: error of the schema version, '' if there is none.
    newest: the schema is of the newest version. bytes, free: size of the file and its unused part."""

    verdict: str
    mismatch: str
    newest: bool
    bytes: int
    free: int


def examine_database(directory: Path) -> Examination | None:
    """Inspect the database in `directory`; None if there is none. Reads all of it. Raises ConfigError, StorageError."""
    path = directory / NAME
    check_database_files(path)
    with mapped(path):
        if not path.exists():
            return None
        # SQLite creates -wal and -shm files even for a read-only connection, unless they exist or immutable=1 is set.
        idle = not path.with_name(f"{path.name}-wal").exists()
        with opened(path, idle) as connection:
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
