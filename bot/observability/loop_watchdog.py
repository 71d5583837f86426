"""Watches the event loop from a thread: logs where a loop that is late stands, and ends a process that cannot stop.

The thread needs the GIL: C code that keeps it holds up the thread as well as the loop, and is only reported when it has
returned. To end such a process is left to its supervisor, as systemd does after TimeoutStopSec.
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
"""A loop that has not run for so long is late."""
TICK_S = 0.5
GRACE_S = 10.0
"""What a loop that is not late may take beyond the deadline of a stop, to close connections and the engine."""
LOG_S = 1.0
"""The longest that a line may keep the thread: code that is held up may hold the lock of the log."""
DEEPEST = 30
"""The most frames of a stack that are logged."""
EX_HELD_UP = 1
"""The exit status of a process that was told to stop and could not."""


class LoopWatchdog:
    """A daemon thread beside one event loop."""

    def __init__(self, end: Callable[[int], object] = os._exit) -> None:
        self._end = end
        self._stopped = threading.Event()
        self._deadline: float | None = None
        self._took_s: float | None = None  # what the loop took to run when it was last asked; None until it has

    def start(self) -> None:
        """Watch the running loop."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        threading.Thread(target=self._watch, name="loop watchdog", daemon=True).start()

    def stop(self) -> None:
        """The loop ends in order. A deadline stays."""
        self._stopped.set()

    def end_within(self, seconds: float) -> None:
        """End the process if the loop is late once this time is over, and GRACE_S later in any case.

        A signal handler may call it, and any thread; the first call counts.
        """
        if self._deadline is None:
            self._deadline = time.monotonic() + seconds

    def _watch(self) -> None:
        late_s, reported = 0.0, False
        self._ask()
        while not self._stopped.is_set() or self._deadline is not None:
            began, worked = time.monotonic(), time.process_time()
            time.sleep(TICK_S)
            # a machine that was suspended, or a process that was stopped, held up nobody: it did not compute meanwhile
            tick_s = min(time.monotonic() - began, 2 * TICK_S + time.process_time() - worked)
            late_s += tick_s
            took_s = self._took_s
            if took_s is None and late_s > LATE_S and not reported:
                reported = True
                _say(logging.WARNING, "The event loop has been held up for %.1f s at %s", late_s, self._place())
            if self._is_over(late=took_s is None and late_s > LATE_S):
                _say(logging.ERROR, "The process did not stop in time and is ended; it stood at %s", self._place())
                self._end(EX_HELD_UP)
                return
            if took_s is not None:
                # where no thread could run, this one has overslept
                if (held_s := max(min(took_s, late_s), tick_s - TICK_S)) > LATE_S:
                    _say(logging.WARNING, "The event loop was held up for %.1f s", held_s)
                late_s, reported = 0.0, False
                self._ask()

    def _ask(self) -> None:
        """Have the loop tell how long it takes until it runs."""
        self._took_s, asked = None, time.monotonic()

        def ran() -> None:
            self._took_s = time.monotonic() - asked

        try:
            self._loop.call_soon_threadsafe(ran)
        except RuntimeError:  # the loop is closed
            self._took_s = 0.0

    def _is_over(self, *, late: bool) -> bool:
        """Whether a process that was told to stop has had its time."""
        beyond = -1.0 if self._deadline is None else time.monotonic() - self._deadline
        return beyond > GRACE_S or (late and beyond > 0)

    def _place(self) -> str:
        """Where the loop's thread stands, innermost first: file, line and function, without text of anybody."""
        frame, places = sys._current_frames().get(self._loop_thread), list[str]()
        while frame is not None and len(places) < DEEPEST:
            code = frame.f_code
            places.append(f"{'/'.join(PurePath(code.co_filename).parts[-2:])}:{frame.f_lineno} {code.co_name}")
            frame = frame.f_back
        return " < ".join(places)


def _say(level: int, message: str, *values: object) -> None:
    """Log a line, but go on without it if that takes too long."""
    line = threading.Thread(target=log.log, args=(level, message, *values), daemon=True)
    line.start()
    line.join(LOG_S)
