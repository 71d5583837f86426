"""Runs all writes on one thread and groups waiting writes into one transaction (group commit).

Each write runs in its own savepoint, so that a failing one does not affect the others. Results are returned after the
transaction is committed and synced; if the commit fails, all its writes fail. Urgent writes run first, in larger
groups; each transaction also takes a few others in order, so that none starves. While a server does not answer, writes
wait, except those that are to fail then.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from bot.storage.backend import Backend, Unreachable
from bot.storage.db_errors import closed
from bot.types.errors import StorageError

OTHERS = 32
"""Maximum non-urgent writes per transaction: about 5 ms of work before the next urgent ones."""

URGENT = 256
"""Maximum urgent writes per transaction, so that the first of a thousand does not wait for the last."""

MOST_WAITING = 1000
"""Maximum urgent writes that wait for a server; further ones fail. Most are messages, with their files."""

Work = Callable[[Connection], Any]
"""A function that runs inside a transaction. Any: its result type is the caller's."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[..., Any]  # takes the connection, unless it runs alone
    done: asyncio.Future[Any]
    urgent: bool = False
    at_once: bool = False  # fails while the server does not answer
    alone: bool = False  # runs outside of a transaction


class Writer:
    """Owns the writer thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._outage = backend, backend.outage
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._lock = threading.Lock()
        self._urgent: deque[_Job] = deque()
        self._others: deque[_Job] = deque()
        self._busy = self._closed = False

    async def run(self, work: Work, *, urgent: bool = False, at_once: bool = False) -> Any:
        """Run `work`, commit, and return its result. Completes even if the caller is cancelled. Raises StorageError."""
        return await self._run(_Job(work, asyncio.get_running_loop().create_future(), urgent, at_once))

    async def run_alone(self, work: Callable[[], Any]) -> Any:
        """Run `work` outside of a transaction, after all earlier writes that are not urgent. Raises StorageError."""
        return await self._run(_Job(work, asyncio.get_running_loop().create_future(), alone=True))

    async def _run(self, job: _Job) -> Any:
        with self._lock:
            if self._closed:
                raise closed(self._backend.name)
            (self._urgent if job.urgent else self._others).append(job)
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
                self._run_until_answered(batch)

    def _run_until_answered(self, batch: Sequence[_Job]) -> None:
        """Run a batch again while the server does not answer; some writes fail after the second time."""
        attempt = 0
        while batch:
            outcomes: Sequence[Any]
            if self._closed:
                outcomes = [closed(self._backend.name)] * len(batch)
            else:
                outcomes = [self._run_alone(batch[0].work)] if batch[0].alone else self._run_group(batch)
            error = outcomes[0]
            if not isinstance(error, Unreachable) or not self._outage.wait(attempt, error):
                _resolve(batch, outcomes)
                return
            if attempt:
                failing = [job for job in batch if job.at_once] + self._take_failing()
                _resolve(failing, [error] * len(failing))
                batch = [job for job in batch if not job.at_once]
            attempt += 1

    def _take_failing(self) -> list[_Job]:
        """Take the urgent writes that do not wait for the server."""
        with self._lock:
            waiting = [job for job in self._urgent if not job.at_once]
            failing = [job for job in self._urgent if job.at_once] + waiting[MOST_WAITING:]
            self._urgent = deque(waiting[:MOST_WAITING])
            return failing

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
            with self._backend.mapped(), self._backend.writing() as connection:
                if len(batch) == 1:  # nothing else is undone with it
                    outcomes = [batch[0].work(connection)]
                else:
                    outcomes = [self._run_in_savepoint(connection, job) for job in batch]
        except Exception as error:  # the whole transaction failed
            return [error] * len(batch)
        self._outage.ended()
        return outcomes

    def _run_in_savepoint(self, connection: Connection, job: _Job) -> Any:
        savepoint = connection.begin_nested()
        try:
            with self._backend.mapped():
                result = job.work(connection)
        except Exception as error:
            if isinstance(error, StorageError) and not self._backend.can_go_on(connection):
                raise
            savepoint.rollback()
            return error
        savepoint.commit()
        return result

    def _run_alone(self, work: Callable[[], Any]) -> Any:
        try:
            with self._backend.mapped():
                return work()
        except Exception as error:
            return error


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

    if not batch:
        return
    with suppress(RuntimeError):  # the loop is closed
        batch[0].done.get_loop().call_soon_threadsafe(resolve)
