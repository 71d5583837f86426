"""Has calls wait while a database server does not answer, and logs the beginning and the end of that time."""

import logging
import math
import threading
import time

from bot.types.errors import StorageError

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 1.0
"""Longest pause between two attempts: what fails at once fails within the 3 s in which it must be acknowledged."""


class Unreachable(StorageError):
    """The server did not answer, so nothing was written; the same call may work once it answers again."""


class Outage:
    """The outages of one server, whose `name` is for the log. Used by several threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._since: float | None = None  # monotonic, as is `_ended_at`
        self._ended_at = -math.inf
        self._impatient = threading.Event()

    def wait(self, attempt: int, error: Unreachable) -> bool:
        """Wait before the next attempt, not at all before the first one; False if there must be none.

        Not stamina, whose pauses do not end when the service stops.
        """
        if attempt == 0:  # the connection may only be an old one, from before the server's restart
            return not self._impatient.is_set()
        with self._lock:
            begins, self._since = self._since is None, self._since or time.monotonic()
        if begins:
            log.error("%s Messages are not acknowledged until it answers.", error)
        return not self._impatient.wait(min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**attempt))

    def ended(self) -> None:
        """Note that the server answered."""
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
            self._ended_at = time.monotonic()
        if since is not None:
            log.warning("The database %s answers again, after %.0f s.", self._name, time.monotonic() - since)

    @property
    def over_for_s(self) -> float:
        """Seconds since the last outage, infinite without one; 0 while the server does not answer."""
        with self._lock:
            return 0.0 if self._since is not None else time.monotonic() - self._ended_at

    def stop_waiting(self) -> None:
        """Let calls fail at once from now on."""
        self._impatient.set()
