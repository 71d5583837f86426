"""Lets a thread of Python code work beside a running batch without slowing it down for long.

Both need the GIL, and a batch gives it up at every kernel: while another thread computes in Python, each of a step's
hundreds of kernels may wait for it for 5 ms. So the other thread works for SLICE_S, and then sleeps for as long.
"""

from collections.abc import Callable
from time import perf_counter, sleep

SLICE_S = 0.005
"""Less than a decode step of any model but the smallest; the longest gap is this and one call of the tokenizer."""


class DutyCycle:
    """Counts the pauses of one thread's work; `busy` tells whether a batch is running. `pauses` grows with the work."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._since = 0.0
        self.pauses = 0

    def begin(self) -> None:
        """Work begins now."""
        self._since = perf_counter()

    def pause(self) -> None:
        """Sleep, if it is time and somebody else has something to do."""
        self.pauses += 1
        worked = perf_counter() - self._since
        if worked >= SLICE_S:
            if self._busy():
                sleep(worked)
            self._since = perf_counter()
