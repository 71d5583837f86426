"""Keep the most recent warnings and errors of the log for the status page: what happened, and what to do.

Collects records of our own loggers from WARNING on; equal messages are counted as one. Tokens are redacted, and of an
exception only its type is kept. As in the log, there is no text of users or models.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bot.observability.logs import OURS, Redactor

KEPT = 20
LONGEST = 300
"""Maximum characters of a message that are kept."""
NO_FIX = "The log says more about this moment."


@dataclass(frozen=True, slots=True)
class RecentError:
    """One warning or error. at: Unix seconds of the last occurrence; times: occurrences; where: part of the logger."""

    at: float
    where: str
    error: bool
    what: str
    fix: str
    times: int = 1


class RecentErrors(logging.Handler):
    """Logging handler that keeps the last KEPT different messages. secrets: tokens to redact."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__(logging.WARNING)
        self._redact = Redactor(secrets)
        self._last: dict[tuple[str, str], RecentError] = {}  # the oldest first

    def open(self) -> None:
        """Attach to our loggers."""
        for name in OURS:
            logging.getLogger(name).addHandler(self)

    def close(self) -> None:
        """Detach from our loggers."""
        for name in OURS:
            logging.getLogger(name).removeHandler(self)
        super().close()

    def last(self) -> list[RecentError]:
        """The kept messages, newest first."""
        self.acquire()
        try:
            return list(reversed(self._last.values()))
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record; `logging` calls it with the handler's lock held, from any thread."""
        try:
            text = self._redact(record.getMessage())
        except Exception:  # as in the stdlib: a wrong format string must not raise in the caller
            return
        what, fix = split_message(text)
        if record.exc_info and record.exc_info[0] is not None:
            fix = f"{record.exc_info[0].__name__}; the log has its traceback."
        error = RecentError(time.time(), _part(record.name), record.levelno >= logging.ERROR, what, fix or NO_FIX)
        before = self._last.pop((error.where, what), None)
        self._last[error.where, what] = replace(error, times=before.times + 1) if before else error
        while len(self._last) > KEPT:
            del self._last[next(iter(self._last))]


def split_message(text: str) -> tuple[str, str]:
    """Split a message at its first '; ' or full stop into what happened and what to do."""
    line = " ".join(text.split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
    ends = [place for mark in ("; ", ". ") if (place := line.find(mark)) > 0]
    if not ends:
        return line.removesuffix("."), ""
    what, fix = line[: min(ends)], line[min(ends) + 2 :]
    return what, f"{fix[:1].upper()}{fix[1:].removesuffix('.')}."


def _part(logger: str) -> str:
    """The part that a logger belongs to: 'discord' for adapters.discord.gateway.gateway, 'worker' for
    bot.generation.worker, 'engine' for inhouse.engine."""
    names = logger.split(".")
    return names[-1] if names[0] == "bot" else names[1] if len(names) > 1 else names[0]
