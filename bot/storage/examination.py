"""A look at a state directory from outside, also while its Inhouse is running: `inhouse doctor`.

In: the directory. Out: whether somebody holds it, and how the database is. Promise: nothing is written or made, and
nobody is kept waiting. Raises StorageError.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from bot.storage.faults import mapped

MIGRATIONS = Path(__file__).parent / "migrations"
TIMEOUT_S = 5.0


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
    path = directory / "inhouse.db"
    with mapped(path):
        if not path.exists():
            return None
        # SQLite makes files beside a database that it only reads, unless they are there or it is told not to care.
        written_to = path.with_name(f"{path.name}-wal").exists()
        address = f"{path.absolute().as_uri()}?mode=ro{'' if written_to else '&immutable=1'}"
        with closing(sqlite3.connect(address, uri=True, timeout=TIMEOUT_S)) as connection:
            verdict = str(_value(connection, "PRAGMA quick_check(1)"))
            page, free = int(_value(connection, "PRAGMA page_size")), int(_value(connection, "PRAGMA freelist_count"))
            revision = _revision(connection)
        return Examination(verdict, revision, *_place(revision), path.stat().st_size, page * free)


def _revision(connection: sqlite3.Connection) -> str:
    tables = "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"
    if not _value(connection, tables):
        return ""
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else ""


def _value(connection: sqlite3.Connection, statement: str) -> int | str:
    found: int | str = connection.execute(statement).fetchone()[0]
    return found


def _place(revision: str) -> tuple[bool, bool]:
    """Whether this version knows a revision, and whether it is the newest; '' is that of an empty database."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    known = {each.revision for each in script.walk_revisions()}
    return revision in known | {""}, revision == script.get_current_head()
