"""Manages one SQLite file: connections, pragmas and transactions.

A transaction is a function of a connection, run by one call on a worker thread, so that a busy event loop delays it
once and not once per statement. When `write` returns, the transaction is synced to disk; when it raises, nothing was
written. Reads never wait for writes. All errors are StorageError.
"""

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from bot.storage.db_errors import closed, damaged, mapped
from bot.storage.schema_version import migrate
from bot.storage.writer import Writer

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

READERS = 4
"""Number of reader threads."""

ERASE_MS = 250
"""Timeout for truncating the write-ahead log while another process reads; all writes wait meanwhile."""

P = ParamSpec("P")
T = TypeVar("T")


def shield_from_cancellation(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:  # Any: asyncio's own
    """Decorate a method of several steps: it finishes all of them before it propagates a cancellation."""

    @functools.wraps(method)
    async def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.create_task(method(*args, **kwargs))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # mark the exception as retrieved
            raise

    return whole


class Database:
    """The database at `path`, created if missing. The first transaction opens it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # hide_parameters: error messages must not contain user messages
        self._engine = create_engine(
            URL.create("sqlite", database=str(path)), pool_size=READERS + 1, max_overflow=0, hide_parameters=True
        )
        event.listen(self._engine, "connect", _set_up)
        event.listen(self._engine, "begin", _begin)
        self._writer = Writer(self._engine.execution_options(begin="BEGIN IMMEDIATE"), path)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self.log_to_erase = False
        """The log could not be truncated because another process was reading; retry later."""
        self._closed = False

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction (a snapshot) and return its result."""
        if self._closed:
            raise closed(self.path)
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def write(self, work: Callable[[Connection], T], *, urgent: bool = False) -> T:
        """Run `work` in a write transaction and return its result; see `Writer.run`.

        urgent: run before all non-urgent writes. Completes even if the caller is cancelled.
        """
        result: T = await self._writer.run(work, urgent=urgent)
        return result

    async def erase_log(self) -> None:
        """Truncate the write-ahead log, which still contains deleted text."""
        self.log_to_erase = True  # stays set if the next line raises
        self.log_to_erase = await self._writer.run(_erase_log, alone=True)

    async def prepare(self) -> None:
        """Check the file and migrate its schema. Raises StorageError with instructions."""
        with mapped(self.path):
            _make(self.path)
        verdict = await self.read(lambda found: str(found.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()))
        if verdict != "ok":
            raise damaged(self.path, verdict)
        await self.write(lambda found: migrate(found, self.path))

    async def close(self) -> None:
        """Finish the current transaction, then close all connections; later reads and writes raise StorageError.

        The next process may already have read the pending requests, so a write from now on would be found too late.
        """
        self._closed = True
        await self._writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        self._engine.dispose()

    def _read(self, work: Callable[[Connection], T]) -> T:
        with mapped(self.path), self._engine.begin() as connection:
            return work(connection)


def _erase_log(connection: Connection) -> bool:
    """Truncate the log; returns whether to retry later."""
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {ERASE_MS}")
    try:
        return bool(connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0])
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_MS}")


def _make(path: Path) -> None:
    if not path.exists():
        path.touch(mode=0o600)  # SQLite copies the mode to its -wal and -shm files
    if path.is_file() and not path.stat().st_size:
        with closing(sqlite3.connect(path)) as connection:
            for pragma in FIRST_PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")


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
