"""Opens and inspects the database read-only while a service may be using it.

Writes and creates nothing, and blocks no writer.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from bot.storage.db_errors import mapped
from bot.storage.files import check_database_files
from bot.storage.postgresql import open_server
from bot.storage.schema_version import newest, version_of
from bot.types.errors import ConfigError, StateFromElsewhere

NAME = "inhouse.db"
"""File name of the database in its state directory."""

TIMEOUT_S = 5.0


def database_in(directory: Path) -> Path:
    """Path of the database of a state directory. Raises ConfigError if it is missing or not a regular file."""
    path = directory / NAME
    check_database_files(path)
    if not path.exists():
        raise ConfigError(
            f"No database in {directory} yet: run `inhouse run` once, or set INHOUSE_STATE_DIR to the right directory."
        )
    return path


def read_only_connection(path: Path, idle: bool = False) -> sqlite3.Connection:
    """Open a read-only sqlite3 connection. `idle`: no process has it open, so no -wal file is created."""
    address = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if idle else ''}"
    connection = sqlite3.connect(address, uri=True, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextmanager
def open_read_only(directory: Path, url: SecretStr | None = None) -> Iterator[Connection]:
    """Open a connection to read from; each statement reads a new snapshot, once all rows of the last one are fetched.

    Raises ConfigError if there is no database or its version is unknown, StorageError if it cannot be read.
    """
    if url is not None:
        with open_server(url.get_secret_value()) as connection:
            yield connection
        return
    path = database_in(directory)
    with mapped(path), open_any_version(path) as connection:
        version_of(connection, str(path))
        yield connection


@contextmanager
def open_any_version(path: Path, idle: bool = False) -> Iterator[Connection]:
    """Same as read_only_connection, as an SQLAlchemy connection; accepts any schema version."""
    creator = partial(read_only_connection, path, idle)
    with create_engine("sqlite://", creator=creator, poolclass=NullPool, hide_parameters=True).connect() as connection:
        yield connection


@dataclass(frozen=True, slots=True)
class Inspection:
    """verdict: 'ok', or the damage that SQLite reports. mismatch: error of the schema version, '' if there is none.
    newest: the schema is of the newest version. bytes, free: size of the file and its unused part."""

    verdict: str
    mismatch: str
    newest: bool
    bytes: int
    free: int


def inspect_database(directory: Path) -> Inspection | None:
    """Inspect the database in `directory`; None if there is none. Reads all of it. Raises ConfigError, StorageError."""
    path = directory / NAME
    check_database_files(path)
    with mapped(path):
        if not path.exists():
            return None
        # SQLite creates -wal and -shm files even for a read-only connection, unless they exist or immutable=1 is set.
        idle = not path.with_name(f"{path.name}-wal").exists()
        with open_any_version(path, idle) as connection:
            verdict = str(_value(connection, "PRAGMA quick_check(1)"))
            page, free = int(_value(connection, "PRAGMA page_size")), int(_value(connection, "PRAGMA freelist_count"))
            up_to_date, mismatch = False, ""
            if verdict == "ok":
                try:
                    up_to_date = version_of(connection, str(path)) == newest()
                except StateFromElsewhere as error:
                    mismatch = str(error)
        return Inspection(verdict, mismatch, up_to_date, path.stat().st_size, page * free)


def _value(connection: Connection, statement: str) -> int | str:
    found: int | str = connection.exec_driver_sql(statement).scalar_one()
    return found
