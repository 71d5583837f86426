"""Throttles a thread of Python code that works beside a running batch.

Both need the GIL, and a batch releases it at every kernel: while another thread computes in Python, each of a step's
hundreds of kernels may wait 5 ms for it. So the other thread works for SLICE_S, and then sleeps for as long.
"""

from collections.abc import Callable
from time import perf_counter, sleep

SLICE_S = 0.005
"""Shorter than a decode step of any but the smallest models. The longest delay is this plus one tokenizer call."""


class DutyCycle:
    """Throttle of one thread. `busy`: whether a batch is running. `pauses` grows with the work."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._since = 0.0
        self.pauses = 0

    def begin(self) -> None:
        """Record that work begins now."""
        self._since = perf_counter()

    def pause(self) -> None:
        """Sleep, if the slice is used up and a batch is running."""
        self.pauses += 1
        worked = perf_counter() - self._since
        if worked >= SLICE_S:
            if self._busy():
                sleep(worked)
            self._since = perf_counter()
