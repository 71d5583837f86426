"""The last things that went wrong, as the log had them: what happened, and what to do about it.

In: our own loggers' records from warning on. Out: the newest few, those that say the same counted as one. They are as
discreet as the log: no text of people or models, tokens taken out, and of an exception only its kind.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bot.observability.logs import OURS, Redactor

KEPT = 20
LONGEST = 300
"""Characters of a message that are shown."""
NO_FIX = "The log says more about this moment."


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong. at: Unix seconds, of the last time; times: how often it did. where: the part that noticed it."""

    at: float
    where: str
    error: bool
    what: str
    fix: str
    times: int = 1


class Troubles(logging.Handler):
    """Hears the log while it is open. `secrets` are tokens to take out."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__(logging.WARNING)
        self._redact = Redactor(secrets)
        self._last: dict[tuple[str, str], Trouble] = {}  # the oldest first

    def open(self) -> None:
        """Begin to hear."""
        for name in OURS:
            logging.getLogger(name).addHandler(self)

    def close(self) -> None:
        """Hear no more."""
        for name in OURS:
            logging.getLogger(name).removeHandler(self)
        super().close()

    def last(self) -> list[Trouble]:
        """The newest first."""
        self.acquire()
        try:
            return list(reversed(self._last.values()))
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record; called with the handler's lock held, from any thread."""
        try:
            text = self._redact(record.getMessage())
        except Exception:  # as the stdlib has it: a log call that is wrong must not break its caller
            return
        what, fix = told_apart(text)
        if record.exc_info and record.exc_info[0] is not None:
            fix = f"{record.exc_info[0].__name__}; the log has its traceback."
        trouble = Trouble(time.time(), _part(record.name), record.levelno >= logging.ERROR, what, fix or NO_FIX)
        before = self._last.pop((trouble.where, what), None)
        self._last[trouble.where, what] = replace(trouble, times=before.times + 1) if before else trouble
        while len(self._last) > KEPT:
            del self._last[next(iter(self._last))]


def told_apart(text: str) -> tuple[str, str]:
    """A message as what happened and what to do: our sentences put a '; ' or a full stop between them."""
    line = " ".join(text.split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
    ends = [place for mark in ("; ", ". ") if (place := line.find(mark)) > 0]
    if not ends:
        return line.removesuffix("."), ""
    what, fix = line[: min(ends)], line[min(ends) + 2 :]
    return what, f"{fix[:1].upper()}{fix[1:].removesuffix('.')}."


def _part(logger: str) -> str:
    """'discord' for adapters.discord.gateway.gateway, 'worker' for bot.generation.worker, 'engine' for
    inhouse.engine."""
    names = logger.split(".")
    return names[-1] if names[0] == "bot" else names[1] if len(names) > 1 else names[0]
