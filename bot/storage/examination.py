"""A look at a state directory from outside, also while its Inhouse is running: `inhouse doctor`.

In: the directory. Out: how its database is. Promise: nothing is written or made, and nobody is kept waiting. Raises
StorageError.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from bot.storage.faults import mapped
from bot.storage.looking import NAME, opened
from bot.storage.versions import known_versions, newest, recorded


@dataclass(frozen=True, slots=True)
class Examination:
    """verdict: 'ok', or SQLite's word for the damage. revision: of the tables; known: whether this version has it, and
    newest: whether it is its last one. bytes and free: the file's size, and how much of it is unused."""

    verdict: str
    revision: str
    known: bool
    newest: bool
    bytes: int
    free: int


def examine_database(directory: Path) -> Examination | None:
    """How the database in `directory` is, None if there is none. Reads all of it."""
    path = directory / NAME
    with mapped(path):
        if not path.exists():
            return None
        # SQLite makes files beside a database that it only reads, unless they are there or it is told not to care.
        at_rest = not path.with_name(f"{path.name}-wal").exists()
        with opened(path, at_rest) as connection:
            verdict = str(_value(connection, "PRAGMA quick_check(1)"))
            page, free = int(_value(connection, "PRAGMA page_size")), int(_value(connection, "PRAGMA freelist_count"))
            revision = recorded(connection)
        known = revision in known_versions() | {""}
        return Examination(verdict, revision, known, revision == newest(), path.stat().st_size, page * free)


def _value(connection: Connection, statement: str) -> int | str:
    found: int | str = connection.exec_driver_sql(statement).scalar_one()
    return found
