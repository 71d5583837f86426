"""One SQLite file: its connections, its settings, its transactions.

In: the path of the database. Out: connections inside a transaction. Promises: what a write() block did is on the disk,
all of it, when the block was left without an error, and none of it otherwise; reads never wait for writes; every fault
is a StorageError.
"""

import asyncio
import functools
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from bot.errors import StorageError
from bot.storage.faults import damaged, mapped
from bot.storage.versions import migrate

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

ERASE_MS = 250
"""How long the emptying of the log may wait for readers of other processes; nobody can write meanwhile."""

P = ParamSpec("P")
T = TypeVar("T")


def undisturbed(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:  # Any: asyncio's own
    """A method whose transaction comes to its end before a cancellation is felt.

    A connection that is given up in the middle of a statement keeps its lock until the statement is garbage, and until
    then nobody can write.
    """

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
        self._engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=str(path)), pool_size=5, max_overflow=0, hide_parameters=True
        )
        event.listen(self._engine.sync_engine, "connect", _set_up)
        event.listen(self._engine.sync_engine, "begin", _begin)
        self._writing = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        self._writer = asyncio.Lock()
        self.log_to_erase = False
        """Whether somebody was reading when the log was to be emptied: try again later."""
        self._closed = False

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one moment of the database."""
        self._check_open()
        with mapped(self.path):
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """The one transaction that may write at a time; committed and synced when the block ends."""
        async with self._writer:
            self._check_open()
            with mapped(self.path):
                async with self._writing.begin() as connection:
                    yield connection

    async def erase_log(self) -> None:
        """Empty the write-ahead log, which holds deleted text until it is written over."""
        self.log_to_erase = True  # also if this raises
        async with self._writer:
            self._check_open()
            with mapped(self.path):
                async with self._engine.execution_options(begin="").connect() as connection:
                    await connection.exec_driver_sql(f"PRAGMA busy_timeout = {ERASE_MS}")
                    try:
                        emptied = await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                        self.log_to_erase = bool(emptied.one()[0])
                    finally:
                        await connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_MS}")

    async def prepare(self) -> None:
        """Check the file and bring its tables up to date. Raises StorageError with the way out."""
        with mapped(self.path):
            _make(self.path)
            async with self.read() as connection:
                result = await connection.exec_driver_sql("PRAGMA quick_check(1)")
                verdict = str(result.scalar_one())
        if verdict != "ok":
            raise damaged(self.path, verdict)
        async with self.write() as connection:
            await connection.run_sync(lambda found: migrate(found, self.path))

    async def close(self) -> None:
        """Wait for the write under way, then close every connection; nothing can be read or written any more.

        The next process may have looked already at what is owed: what were stored now would wait for the one after it.
        """
        async with self._writer:
            self._closed = True
            await self._engine.dispose()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"The database {self.path} is closed, for Inhouse ends; nothing was stored.")


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
