"""Runs transactions on worker threads, and keeps the order of reads and writes.

A transaction is a function of a connection, run by one call on a worker thread, so that a busy event loop delays it
once and not once per statement. When `write` returns, the transaction is synced to disk; when it raises, nothing was
written. Reads never wait for writes. All errors are StorageError. While a database server does not answer, reads and
writes wait for it, except writes that are to fail then.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection

from bot.storage.backend import Backend, Unreachable
from bot.storage.db_errors import closed
from bot.storage.writer import Writer
from bot.types.errors import ConfigError, StorageError

READERS = 4
"""Number of reader threads."""

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
    """The database behind `backend`. Call `prepare` first."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._outage = backend.outage
        self._writer = Writer(backend)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self.log_to_erase = False
        """The log could not be truncated because another process was reading; retry later."""
        self._closed = False
        self._taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._renewing: asyncio.Task[None] | None = None

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction (a snapshot) and return its result."""
        if self._closed:
            raise closed(self._backend.name)
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def write(self, work: Callable[[Connection], T], *, urgent: bool = False, at_once: bool = False) -> T:
        """Run `work` in a write transaction and return its result; see `Writer.run`.

        urgent: run before all non-urgent writes. at_once: fail while the server does not answer. Completes even if the
        caller is cancelled.
        """
        result: T = await self._writer.run(work, urgent=urgent, at_once=at_once)
        return result

    async def erase_log(self) -> None:
        """Remove what was deleted from the write-ahead log."""
        self.log_to_erase = True  # stays set if the next line raises
        self.log_to_erase = await self._writer.run_alone(self._backend.erase_log)

    async def trim(self) -> bool:
        """Return some unused space to the file system; False if none is left."""
        return await self.write(self._backend.trim)

    async def prepare(self) -> None:
        """Create and claim the database, check it and migrate its schema. Raises StorageError with instructions."""
        with self._backend.mapped():
            await self._on_thread(self._backend.create)
        while (pause := await self._on_thread(self._backend.claim)) is not None:  # noqa: ASYNC110 -- another has it
            await asyncio.sleep(pause)
        await self.read(self._backend.check)
        await self.write(self._backend.migrate)
        if (seconds := self._backend.renew()) is not None:
            self._renewing = asyncio.create_task(self._renew(seconds), name="claim on the database")

    async def _on_thread(self, step: Callable[[], T]) -> T:
        """Run a step of `prepare`; ends after the step even if cancelled: a claim that was made must be released."""
        running = asyncio.create_task(self._whole(step))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self.stop_waiting()  # the step ends soon, even if the server does not answer
            with suppress(StorageError, ConfigError):
                await running
            raise

    @shield_from_cancellation
    async def _whole(self, step: Callable[[], T]) -> T:
        return await asyncio.to_thread(step)

    async def until_taken(self) -> None:
        """Wait until another host has declared this one dead; raises StorageError then."""
        await asyncio.shield(self._taken)
        raise StorageError(self._backend.taken)

    async def _renew(self, seconds: float) -> None:
        while not self._backend.taken:
            await asyncio.sleep(seconds)
            with suppress(StorageError):
                await self.write(_nothing)
        self._taken.set_result(None)

    @property
    def holds_claim(self) -> bool:
        """Whether no other host can have declared this one dead up to this moment."""
        return self._backend.holds_claim()

    @property
    def outage_over_for_s(self) -> float:
        """Seconds since the server's last outage, infinite without one; 0 during one."""
        return self._outage.over_for_s

    @property
    def host(self) -> str:
        """The name of this host in rows, '' in a file."""
        return self._backend.host

    @property
    def has_others(self) -> bool:
        """Whether other hosts use the database."""
        return self._backend.has_others

    @has_others.setter
    def has_others(self, value: bool) -> None:
        self._backend.has_others = value

    def stop_waiting(self) -> None:
        """Let reads and writes fail at once from now on while a database server does not answer."""
        self._backend.stop_waiting()

    async def close(self) -> None:
        """Finish the current transaction, then close all connections; later reads and writes raise StorageError.

        The next process may already have read the pending requests, so a write from now on would be found too late.
        """
        if self._renewing is not None:
            self._renewing.cancel()
        self._closed = True
        self.stop_waiting()
        await self._writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._backend.close)

    def _read(self, work: Callable[[Connection], T]) -> T:
        attempt = 0
        while True:
            try:
                with self._backend.mapped(), self._backend.reading() as connection:
                    result = work(connection)
            except Unreachable as error:
                if not self._outage.wait(attempt, error):
                    raise
                attempt += 1
            else:
                self._outage.ended()
                return result


def _nothing(_: Connection) -> None:
    """An empty write renews the claim on the database."""
