"""Runs all writes on one thread and groups waiting writes into one transaction (group commit).

Each write runs in its own savepoint, so that a failing one does not affect the others. Results are returned after the
transaction is committed and synced; if the commit fails, all its writes fail. Urgent writes run first, in larger
groups; each transaction also takes a few others in order, so that none starves.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from bot.storage.db_errors import closed, mapped
from bot.types.errors import StorageError

OTHERS = 32
"""Maximum non-urgent writes per transaction: about 5 ms of work before the next urgent ones."""

URGENT = 256
"""Maximum urgent writes per transaction, so that the first of a thousand does not wait for the last."""

Work = Callable[[Connection], Any]
"""A function that runs inside a transaction. Any: its result type is the caller's."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work
    done: asyncio.Future[Any]
    alone: bool  # runs outside of a transaction


class Writer:
    """Owns the writer thread. `engine` starts its transactions with BEGIN IMMEDIATE."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine, self._path = engine, path
        self._bare = engine.execution_options(begin="")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._lock = threading.Lock()
        self._urgent: deque[_Job] = deque()
        self._others: deque[_Job] = deque()
        self._busy = self._closed = False

    async def run(self, work: Work, *, urgent: bool = False, alone: bool = False) -> Any:
        """Run `work`, commit, and return its result. Completes even if the caller is cancelled. Raises StorageError.

        alone: run outside of a transaction, after all earlier writes.
        """
        job = _Job(work, asyncio.get_running_loop().create_future(), alone)
        with self._lock:
            if self._closed:
                raise closed(self._path)
            (self._urgent if urgent else self._others).append(job)
            if not self._busy:
                self._busy = True
                self._thread.submit(self._write)
        return await job.done

    async def close(self) -> None:
        """Finish the current transaction; waiting and later writes raise StorageError."""
        with self._lock:
            self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    def _write(self) -> None:
        """Run waiting writes until none is left. Runs on the writer thread."""
        while batches := self._next():
            for batch in batches:
                if self._closed:
                    outcomes: Sequence[Any] = [closed(self._path)] * len(batch)
                else:
                    outcomes = [self._run_alone(batch[0])] if batch[0].alone else self._run_group(batch)
                _resolve(batch, outcomes)

    def _next(self) -> list[list[_Job]]:
        """Take the writes of the next transaction and one `alone` write after it, as far as any wait."""
        with self._lock:
            together = [self._urgent.popleft() for _ in range(min(URGENT, len(self._urgent)))]
            most = len(together) + OTHERS
            while self._others and not self._others[0].alone and len(together) < most:
                together.append(self._others.popleft())
            alone = [self._others.popleft()] if self._others and self._others[0].alone else []
            batches = [batch for batch in (together, alone) if batch]
            self._busy = bool(batches)
            return batches

    def _run_group(self, batch: Sequence[_Job]) -> Sequence[Any]:
        try:
            with mapped(self._path), self._engine.begin() as connection:
                return [self._run_in_savepoint(connection, job) for job in batch]
        except Exception as error:  # the whole transaction failed
            return [error] * len(batch)

    def _run_in_savepoint(self, connection: Connection, job: _Job) -> Any:
        savepoint = connection.begin_nested()
        try:
            with mapped(self._path):
                result = job.work(connection)
        except Exception as error:
            if isinstance(error, StorageError) and not _in_transaction(connection):
                raise  # SQLite rolled back the whole transaction, e.g. on a full disk
            savepoint.rollback()
            return error
        savepoint.commit()
        return result

    def _run_alone(self, job: _Job) -> Any:
        try:
            with mapped(self._path), self._bare.connect() as connection:
                return job.work(connection)
        except Exception as error:
            return error


def _in_transaction(connection: Connection) -> bool:
    return bool(getattr(connection.connection.dbapi_connection, "in_transaction", False))


def _resolve(batch: Sequence[_Job], outcomes: Sequence[Any]) -> None:
    """Resolve the futures of a batch with one call into the event loop."""

    def resolve() -> None:
        for job, outcome in zip(batch, outcomes, strict=True):
            if job.done.done():
                continue  # the caller was cancelled
            if isinstance(outcome, StorageError):  # copy it, because each caller adds its traceback
                job.done.set_exception(StorageError(str(outcome)))
            elif isinstance(outcome, Exception):
                job.done.set_exception(outcome)
            else:
                job.done.set_result(outcome)

    with suppress(RuntimeError):  # the loop is closed
        batch[0].done.get_loop().call_soon_threadsafe(resolve)
