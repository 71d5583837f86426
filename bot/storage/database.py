"""One SQLite file: its connections, its settings, its transactions.

What is to be done in a transaction is a function of a connection, which runs on a thread of SQLite's: one call of a
thread for all statements of a transaction, so that a busy event loop delays it once and not once a statement. What a
write did is on the disk when `write` returns, and none of it is if it raises; reads never wait for writes; every fault
is a StorageError.
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
"""How long a transaction may wait for other processes: an ack is due within 3 s."""

_PRAGMAS = (
    f"busy_timeout = {BUSY_MS}",  # first, for the others may have to wait
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "secure_delete = ON",
    "cache_size = -512",  # KiB a connection: what is read often lies in the system's cache anyway
)

FIRST_PRAGMAS = ("auto_vacuum = INCREMENTAL", "journal_mode = WAL")
"""What an empty file is given: freed pages can only be given back if that was said before anything was written."""

READERS = 4
"""Threads that read."""

ERASE_MS = 250
"""How long the emptying of the log may wait for readers of other processes; nobody can write meanwhile."""

P = ParamSpec("P")
T = TypeVar("T")


def undisturbed(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:  # Any: asyncio's own
    """A method of several steps that finishes all of them before it propagates a cancellation."""

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
                task.exception()  # nobody waits for it any more
            raise

    return whole


class Database:
    """The file at `path`, made if need be. Nothing is opened before the first transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # hide_parameters: an error must not carry people's messages into a log
        self._engine = create_engine(
            URL.create("sqlite", database=str(path)), pool_size=READERS + 1, max_overflow=0, hide_parameters=True
        )
        event.listen(self._engine, "connect", _set_up)
        event.listen(self._engine, "begin", _begin)
        self._writer = Writer(self._engine.execution_options(begin="BEGIN IMMEDIATE"), path)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self.log_to_erase = False
        """Whether somebody was reading when the log was to be emptied: try again later."""
        self._closed = False

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that sees one moment of the database; what it returned."""
        if self._closed:
            raise closed(self.path)
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def write(self, work: Callable[[Connection], T], *, urgent: bool = False) -> T:
        """Run `work` in a transaction and commit; what it returned. See `Writer`.

        urgent: before every write that is not. It runs to its end though the caller is cancelled.
        """
        result: T = await self._writer.run(work, urgent=urgent)
        return result

    async def erase_log(self) -> None:
        """Empty the write-ahead log, which holds deleted text until it is written over."""
        self.log_to_erase = True  # also if this raises
        self.log_to_erase = await self._writer.run(_erase_log, alone=True)

    async def prepare(self) -> None:
        """Check the file and bring its tables up to date. Raises StorageError with the way out."""
        with mapped(self.path):
            _make(self.path)
        verdict = await self.read(lambda found: str(found.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()))
        if verdict != "ok":
            raise damaged(self.path, verdict)
        await self.write(lambda found: migrate(found, self.path))

    async def close(self) -> None:
        """Wait for the transaction under way, then close every connection; nothing can be read or written any more.

        The next process may have looked already at what is owed: what were stored now would wait for the one after it.
        """
        self._closed = True
        await self._writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        self._engine.dispose()

    def _read(self, work: Callable[[Connection], T]) -> T:
        with mapped(self.path), self._engine.begin() as connection:
            return work(connection)


def _erase_log(connection: Connection) -> bool:
    """Empty the log; whether that has to be tried again."""
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {ERASE_MS}")
    try:
        return bool(connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0])
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_MS}")


def _make(path: Path) -> None:
    if not path.exists():
        path.touch(mode=0o600)  # SQLite gives the files beside it the same mode
    if path.is_file() and not path.stat().st_size:
        with closing(sqlite3.connect(path)) as connection:
            for pragma in FIRST_PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")


def _set_up(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    try:
        # the driver would otherwise begin transactions of its own, after the first read and never IMMEDIATE
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
