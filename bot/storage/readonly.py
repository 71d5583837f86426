"""A look at the database from outside, while a service may be using it.

In: a state directory. Out: a connection that reads only. Promises: nobody who writes waits for it; a database that is
not there is not made.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from bot.storage.db_errors import mapped
from bot.storage.files import check_database_files
from bot.storage.schema_version import version_of
from bot.types.errors import ConfigError

NAME = "inhouse.db"
"""The database's name in its state directory."""

TIMEOUT_S = 5.0


def database_in(directory: Path) -> Path:
    """Where the database of a state directory is. Raises ConfigError if there is none, or none that can be opened."""
    path = directory / NAME
    check_database_files(path)
    if not path.exists():
        raise ConfigError(
            f"No database in {directory} yet: run `inhouse run` once, or set INHOUSE_STATE_DIR to the right directory."
        )
    return path


def read_only(path: Path, at_rest: bool = False) -> sqlite3.Connection:
    """A plain connection that cannot write; `at_rest`: nobody else has the database open, so no file is made for it."""
    address = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if at_rest else ''}"
    connection = sqlite3.connect(address, uri=True, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextmanager
def looking(directory: Path) -> Iterator[Connection]:
    """A connection that reads only; each statement sees the database as it is then, once all its rows are fetched.

    Raises ConfigError if there is no database, or one of a version that is not known here, StorageError if it cannot be
    read.
    """
    path = database_in(directory)
    with mapped(path), opened(path) as connection:
        version_of(connection, path)
        yield connection


@contextmanager
def opened(path: Path, at_rest: bool = False) -> Iterator[Connection]:
    """A connection to a database of whatever version, as read_only."""
    creator = partial(read_only, path, at_rest)
    with create_engine("sqlite://", creator=creator, poolclass=NullPool, hide_parameters=True).connect() as connection:
        yield connection
