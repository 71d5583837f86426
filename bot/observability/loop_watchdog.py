"""Watch the event loop from a thread: log the stack of a blocked loop, and end a process that cannot stop.

The thread needs the GIL. C code that holds the GIL blocks it too, and is reported only after it has returned. Ending
such a process is left to its supervisor; systemd does it after TimeoutStopSec.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import PurePath

log = logging.getLogger(__name__)

LATE_S = 2.0
"""A loop that has not run for this time counts as blocked, seconds."""
TICK_S = 0.5
GRACE_S = 10.0
"""Extra time after the deadline for a loop that is not blocked, to close connections and the engine, seconds."""
LOG_S = 1.0
"""Timeout of writing a log line, seconds: the blocked code may hold the log's lock."""
DEEPEST = 30
"""Maximum number of stack frames in a log line."""
EX_HELD_UP = 1
"""Exit status of a process that did not stop in time."""


class LoopWatchdog:
    """A daemon thread that watches one event loop. end: ends the process with an exit status."""

    def __init__(self, end: Callable[[int], object] = os._exit) -> None:
        self._end = end
        self._stopped = threading.Event()
        self._deadline: float | None = None
        self._took_s: float | None = None  # latency of the last callback on the loop; None while it is pending

    def start(self) -> None:
        """Start watching the running loop."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        threading.Thread(target=self._watch, name="loop watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop watching, since the loop ends normally. A deadline of `end_within` stays in force."""
        self._stopped.set()

    def end_within(self, seconds: float) -> None:
        """End the process after `seconds` if the loop is blocked then, and after GRACE_S more in any case.

        May be called from signal handlers and any thread; only the first call has an effect.
        """
        if self._deadline is None:
            self._deadline = time.monotonic() + seconds

    def _watch(self) -> None:
        late_s, reported = 0.0, False
        self._schedule_probe()
        while not self._stopped.is_set() or self._deadline is not None:
            began, worked = time.monotonic(), time.process_time()
            time.sleep(TICK_S)
            # time in which the machine was suspended or the process stopped does not count: no CPU time passed
            tick_s = min(time.monotonic() - began, 2 * TICK_S + time.process_time() - worked)
            late_s += tick_s
            took_s = self._took_s
            if took_s is None and late_s > LATE_S and not reported:
                reported = True
                _log_bounded(logging.WARNING, "The event loop has been blocked for %.1f s at %s", late_s, self._place())
            if self._is_over(late=took_s is None and late_s > LATE_S):
                _log_bounded(
                    logging.ERROR, "The process did not stop in time and is killed; its stack: %s", self._place()
                )
                self._end(EX_HELD_UP)
                return
            if took_s is not None:
                # if C code held the GIL, this thread woke up late, too
                if (held_s := max(min(took_s, late_s), tick_s - TICK_S)) > LATE_S:
                    _log_bounded(logging.WARNING, "The event loop was blocked for %.1f s", held_s)
                late_s, reported = 0.0, False
                self._schedule_probe()

    def _schedule_probe(self) -> None:
        """Schedule a callback on the loop that measures its own latency."""
        self._took_s, asked = None, time.monotonic()

        def ran() -> None:
            self._took_s = time.monotonic() - asked

        try:
            self._loop.call_soon_threadsafe(ran)
        except RuntimeError:  # the loop is closed
            self._took_s = 0.0

    def _is_over(self, *, late: bool) -> bool:
        """Whether the deadline has passed (`late`: the loop is blocked) or GRACE_S more."""
        beyond = -1.0 if self._deadline is None else time.monotonic() - self._deadline
        return beyond > GRACE_S or (late and beyond > 0)

    def _place(self) -> str:
        """The stack of the loop's thread, innermost frame first: file, line and function, no source text or values."""
        frame, places = sys._current_frames().get(self._loop_thread), list[str]()
        while frame is not None and len(places) < DEEPEST:
            code = frame.f_code
            places.append(f"{'/'.join(PurePath(code.co_filename).parts[-2:])}:{frame.f_lineno} {code.co_name}")
            frame = frame.f_back
        return " < ".join(places)


def _log_bounded(level: int, message: str, *values: object) -> None:
    """Log a line in a thread, and stop waiting for it after LOG_S."""
    line = threading.Thread(target=log.log, args=(level, message, *values), daemon=True)
    line.start()
    line.join(LOG_S)
