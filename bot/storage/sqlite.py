"""Stores the data in one SQLite file, with the settings that the guarantees need."""

import sqlite3
from contextlib import AbstractContextManager, closing
from pathlib import Path

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from bot.storage.backend import Backend
from bot.storage.db_errors import damaged, mapped
from bot.storage.schema_version import migrate

BUSY_MS = 2000
"""Lock timeout, for locks of other processes; below the 3 s in which an event must be acknowledged."""

_PRAGMAS = (
    f"busy_timeout = {BUSY_MS}",  # first, because the other pragmas may need locks
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "secure_delete = ON",
    "cache_size = -512",  # KiB per connection; hot pages are in the page cache of the system anyway
)

FIRST_PRAGMAS = ("auto_vacuum = INCREMENTAL", "journal_mode = WAL")
"""Pragmas of a new file; auto_vacuum must be set before the first write."""

ERASE_MS = 250
"""Timeout for truncating the write-ahead log while another process reads; all writes wait meanwhile."""

STEP_PAGES = 100
"""Maximum pages that `trim` returns to the file system."""

INCREMENTAL = 2
"""Value of auto_vacuum for a file that supports incremental vacuum."""


class SqliteFile(Backend):
    """The database file at `path`, created if missing. The first transaction opens it."""

    def __init__(self, path: Path, connections: int) -> None:
        super().__init__(str(path))
        self.path = path
        # hide_parameters: error messages must not contain user messages
        self._engine = create_engine(
            URL.create("sqlite", database=str(path)), pool_size=connections, max_overflow=0, hide_parameters=True
        )
        event.listen(self._engine, "connect", _set_up)
        event.listen(self._engine, "begin", _begin)
        self._writing = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        self._bare = self._engine.execution_options(begin="")

    def mapped(self) -> AbstractContextManager[None]:
        """Map errors in the block to StorageError."""
        return mapped(self.path)

    def create(self) -> None:
        """Create the file if it is missing."""
        if not self.path.exists():
            self.path.touch(mode=0o600)  # SQLite copies the mode to its -wal and -shm files
        if self.path.is_file() and not self.path.stat().st_size:
            with closing(sqlite3.connect(self.path)) as connection:
                for pragma in FIRST_PRAGMAS:
                    connection.execute(f"PRAGMA {pragma}")

    def claim(self) -> None:
        """The lock on the state directory is the claim."""

    def check(self, connection: Connection) -> None:
        """Have SQLite look for damage."""
        verdict = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
        if verdict != "ok":
            raise damaged(self.path, verdict)

    def migrate(self, connection: Connection) -> None:
        """Migrate the schema to the newest version."""
        migrate(connection, self.name)

    def reading(self) -> AbstractContextManager[Connection]:
        """Open a transaction that reads one snapshot."""
        return self._engine.begin()

    def writing(self) -> AbstractContextManager[Connection]:
        """Open a transaction that writes; waits for the lock at most BUSY_MS."""
        return self._writing.begin()

    def can_go_on(self, connection: Connection) -> bool:
        """False if SQLite rolled back the whole transaction, e.g. on a full disk."""
        return bool(getattr(connection.connection.dbapi_connection, "in_transaction", False))

    def erase_log(self) -> bool:
        """Truncate the write-ahead log, unless another process reads it."""
        with self._bare.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {ERASE_MS}")
            try:
                return bool(connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0])
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_MS}")

    def trim(self, connection: Connection) -> bool:
        """Free up to STEP_PAGES unused pages, if the file supports it."""
        mode = connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one()
        free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        if mode != INCREMENTAL or not free:
            return False
        for _ in range(min(free, STEP_PAGES)):  # the driver executes one step of the pragma, which is one page
            connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
        return bool(free > STEP_PAGES)

    def holds_claim(self) -> bool:
        """The lock on the state directory never expires."""
        return True

    def renew(self) -> None:
        """The lock on the state directory needs no renewal."""

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _set_up(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    try:
        # Otherwise the driver starts transactions itself, after the first read and never IMMEDIATE.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        connection.close()
        raise


def _begin(connection: Connection) -> None:
    statement = connection.get_execution_options().get("begin", "BEGIN")
    if statement:
        connection.exec_driver_sql(statement)
