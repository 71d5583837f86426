"""Ends the transactions of a stopping service whose database server accepts connections and never answers.

A thread that waits for an answer cannot be cancelled; it ends once the socket of its connection is shut down.
"""

import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError

from bot.storage.backend import Unreachable

GRACE_S = 5.0
"""How long a transaction may take after `stop`, seconds."""
SLOW_S = 1.0
"""A transaction that fails after `stop` without an answer and took longer, such as an attempt to connect, is the last
one, seconds.
"""
TICK_S = 0.2


class StopDeadline:
    """Watches all transactions on the database `name`. Used by several threads."""

    def __init__(self, name: str) -> None:
        self._unanswered = f"The database {name} does not answer, and Inhouse is stopping."
        self._lock = threading.Lock()
        self._sockets: weakref.WeakKeyDictionary[Any, socket.socket] = weakref.WeakKeyDictionary()
        self._running: dict[object, float] = {}  # when each transaction began, on the monotonic clock
        self._stopped_at: float | None = None
        self._closed = False
        self.passed = False
        """No transaction is tried any more."""

    def watch(self, engine: Engine) -> Engine:
        """Watch the connections of an engine; returns it."""
        event.listen(engine, "connect", self._connected, insert=True)  # before SQLAlchemy's own first statements
        return engine

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Limit the time of the block. Raises Unreachable once a transaction has passed the deadline."""
        if self.passed:
            raise Unreachable(self._unanswered)
        this, began = object(), time.monotonic()
        with self._lock:
            self._running[this] = began
        try:
            yield
        except DBAPIError as error:
            answered = getattr(error.orig, "sqlstate", None) is not None  # such as a lock timeout
            if not answered and self._seconds_since(began) > SLOW_S:
                self._pass()
            if self.passed:
                raise Unreachable(self._unanswered) from error
            raise
        finally:
            with self._lock:
                del self._running[this]

    def stop(self) -> None:
        """Start the deadline."""
        with self._lock:
            if self._stopped_at is not None:
                return
            self._stopped_at = time.monotonic()
        threading.Thread(target=self._watch, name="stop deadline", daemon=True).start()

    def close(self) -> None:
        """End the watch once no transaction runs."""
        self._closed = True

    def _watch(self) -> None:
        while not self.passed:
            time.sleep(TICK_S)
            with self._lock:
                running = list(self._running.values())
            if self._closed and not running:
                return
            if running and self._seconds_since(min(running)) > GRACE_S:
                self._pass()

    def _seconds_since(self, began: float) -> float:
        """Seconds since `began` that are also after the stop; 0 before it."""
        return 0.0 if self._stopped_at is None else time.monotonic() - max(began, self._stopped_at)

    def _pass(self) -> None:
        with self._lock:
            self.passed = True
            sockets = list(self._sockets.values())
        for each in sockets:
            with suppress(OSError):  # not connected any more
                each.shutdown(socket.SHUT_RDWR)

    def _connected(self, connection: Any, _: object) -> None:  # Any: the driver's, which is optional
        # A duplicate, because the driver may close its descriptor, and the system reuse the number, at any moment.
        duplicate = socket.fromfd(connection.fileno(), socket.AF_UNSPEC, socket.SOCK_STREAM)
        weakref.finalize(connection, duplicate.close)
        with self._lock:
            self._sockets[connection] = duplicate
            passed = self.passed
        if passed:
            self._pass()
