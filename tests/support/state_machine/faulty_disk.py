"""Simulates disk faults under the database: full, locked, and loss of data that was not synced.

Raises errors where SQLite would raise them, and copies a database as a crash or a loss of power leaves it. Follows
SQLite's documentation: with synchronous=FULL each commit is synced; otherwise only a checkpoint syncs the write-ahead
log.
"""

import shutil
import sqlite3
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from tests.support.builders.storage_rows import listening

BUSY_MS = 20
"""A shorter lock timeout than the service's."""

FULL = 2  # synchronous=FULL
Stored = Mapping[str, Any]  # Any: what columns hold
"""A row by the names of its columns."""
WRITES = ("INSERT", "UPDATE", "DELETE")


@dataclass(slots=True)
class _Plan:
    what: str  # write, commit or read
    after: int
    times: int


class Disk:
    """Holds the planned faults, and how much of each database a loss of power keeps."""

    url: SecretStr | None = None
    """The database on a server that takes the place of the files."""

    def __init__(self) -> None:
        self._plans: list[_Plan] = []
        self._locker: sqlite3.Connection | None = None
        self._synced: dict[Path, tuple[bytes, int]] = {}  # by database: salt and length of its log at the last sync
        self.struck = 0

    def fails(self, what: str, after: int, times: int) -> None:
        """Makes `times` writes, commits or reads fail, after `after` others."""
        self._plans.append(_Plan(what, after, times))

    def lock(self, path: Path) -> None:
        """Locks the database, as another program would."""
        self.heal()
        self._locker = sqlite3.connect(path, isolation_level=None, timeout=1)
        try:
            self._locker.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # the service is writing
            self.heal()

    def heal(self) -> None:
        """Removes all faults."""
        self._plans.clear()
        if self._locker is not None:
            self._locker.close()
            self._locker = None

    @property
    def ill(self) -> bool:
        """Whether an operation may fail."""
        return bool(self._plans) or self._locker is not None

    @contextmanager
    def under(self) -> Iterator[None]:
        """Puts every database of this process on this disk, until the block ends."""
        with ExitStack() as stack:
            stack.enter_context(listening(Engine, "begin", _wait_less))
            stack.enter_context(listening(Pool, "checkin", self._checkin))
            stack.enter_context(listening(Engine, "before_cursor_execute", self._statement))
            stack.enter_context(listening(Engine, "commit", self._commit))
            stack.callback(self.heal)
            yield

    def copy(self, old: Path, new: Path, *, powerless: bool) -> None:
        """Copies the state directory `old` to `new` as the next process finds it after a kill or a loss of power."""
        new.mkdir(parents=True)
        safe = self._synced.get(old / "inhouse.db", (b"", 0))  # first: a thread may truncate the log after it is copied
        names = ("inhouse.db", "inhouse.db-wal")
        while True:  # a thread may still execute its last statement
            before = [_stamp(old / name) for name in names]
            for name in names:
                if (old / name).exists():
                    shutil.copyfile(old / name, new / name)
            if before == [_stamp(old / name) for name in names]:
                break
        log = new / "inhouse.db-wal"
        if powerless and log.exists():
            salt, length = _log(log)
            with log.open("r+b") as file:
                file.truncate(min(length, safe[1]) if safe[0] == salt else 0)

    def rows(self, directory: Path, query: str) -> Sequence[Stored]:
        """The rows of a query on the database of a state directory; none before its tables exist."""
        path = directory / "inhouse.db"
        if not path.exists():
            return []
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            try:
                return [dict(row) for row in connection.execute(query)]
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise

    def _checkin(self, connection: DBAPIConnection | None, _: ConnectionPoolEntry) -> None:
        """Records what is synced when the writer's connection goes back to the pool, after its commit."""
        if connection is None or not threading.current_thread().name.startswith("writer"):
            return
        cursor = connection.cursor()
        (how,) = cursor.execute("PRAGMA synchronous").fetchone()
        file = cursor.execute("PRAGMA database_list").fetchone()[2]  # "" in memory
        cursor.close()
        if file and how >= FULL:
            path = Path(file)
            before = self._synced.get(path, (b"", 0))
            self._synced[path] = _log(path.with_name(f"{path.name}-wal"), before)

    def _statement(self, connection: Connection, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(WRITES):
            self._strike("write")
        elif statement.startswith("SELECT"):
            self._strike("read")

    def _commit(self, connection: Connection) -> None:
        if connection.get_execution_options().get("begin") == "BEGIN IMMEDIATE":
            self._strike("commit")

    def _strike(self, what: str) -> None:
        if self._is_struck(what):
            error = sqlite3.OperationalError("disk I/O error" if what == "read" else "database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR if what == "read" else sqlite3.SQLITE_FULL
            raise error

    def _is_struck(self, what: str) -> bool:
        """Whether a planned fault happens at this operation."""
        for plan in self._plans:
            if plan.what != what:
                continue
            if plan.after:
                plan.after -= 1
                continue
            plan.times -= 1
            if not plan.times:
                self._plans.remove(plan)
            self.struck += 1
            return True
        return False


def _wait_less(connection: Connection) -> None:
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_MS}")


def _stamp(path: Path) -> tuple[int, int]:
    if not path.exists():
        return (0, 0)
    found = path.stat()
    return (found.st_mtime_ns, found.st_size)


def _log(path: Path, known: tuple[bytes, int] = (b"", 0)) -> tuple[bytes, int]:
    """A write-ahead log's salt, and its length up to the last commit; `known` is an earlier result."""
    if not path.exists():
        return (b"", 0)
    with path.open("rb") as file:
        header = file.read(32)
        if len(header) < 32:
            return (b"", 0)
        (page,) = struct.unpack(">I", header[8:12])
        salt = header[16:24]
        end = known[1] if known[0] == salt else 0
        place = end or 32
        file.seek(place)
        while len(frame := file.read(24)) == 24 and frame[8:16] == salt:
            place += 24 + page
            if frame[4:8] != b"\0\0\0\0":  # last frame of a commit
                end = place
            file.seek(place)
    return (salt, end)
