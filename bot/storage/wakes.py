"""Listens on a connection of its own for the notifications with which hosts wake each other.

A notification is lost while there is no connection, and behind a pooler in transaction mode, so it only saves time:
code that waits for one also looks at the database at intervals.
"""

import logging
import threading
from collections.abc import Callable

import psycopg
from sqlalchemy import URL

from bot.storage.postgresql import CHANNEL

log = logging.getLogger(__name__)

RETRY_S = 2.0
LOOK_S = 1.0
"""Seconds between two looks whether to end."""


class Wakes:
    """Calls `woken` on a thread of its own after each notification of another host than `host`."""

    def __init__(self, url: URL, host: str, woken: Callable[[], object]) -> None:
        self._words, self._options = url.get_dialect()().create_connect_args(url)  # as SQLAlchemy connects
        self._host, self._woken = host, woken
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wakes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End within LOOK_S, and the time that the server takes to refuse a connection."""
        self._closing.set()

    def _run(self) -> None:
        failed = False
        while not self._closing.is_set():
            try:
                with psycopg.connect(*self._words, **self._options, autocommit=True) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    failed = False
                    self._woken()  # there may have been notifications before
                    self._listen(connection)
            except psycopg.Error as error:
                if not failed:
                    log.info("Other hosts cannot wake this one, which looks every second: %s", type(error).__name__)
                failed = True
                self._closing.wait(RETRY_S)

    def _listen(self, connection: psycopg.Connection) -> None:
        while not self._closing.is_set():
            for notification in connection.notifies(timeout=LOOK_S):
                if notification.payload != self._host:
                    self._woken()
                if self._closing.is_set():
                    return
