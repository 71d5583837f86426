"""Keeps threads of the engine from slowing down a running batch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, sleep
from typing import TypeVar

SLICE_S = 0.005
"""Shorter than a decode step of any but the smallest models. The longest delay is this plus one tokenizer call."""

T = TypeVar("T")


def run_on_new_thread(work: Callable[[], T]) -> T:
    """Run `work` on a new thread, wait until that thread has ended, and return or raise what the work did.

    torch's OpenMP gives every computing thread its own helper threads. They spin while the process has no more of them
    than processors. With more they sleep, and waking them a thousand times per step makes the step up to a third
    slower (docs/measurements.md). Helpers end with their thread, so no thread may keep helpers while another computes.
    """
    with ThreadPoolExecutor(1, "run_on_new_thread") as pool:
        return pool.submit(work).result()


class DutyCycle:
    """Throttles a thread of Python code that works beside a running batch: it works for SLICE_S, then sleeps as long.

    Both need the GIL, and a batch releases it at every kernel: while another thread computes in Python, each of a
    step's hundreds of kernels may wait 5 ms for it. busy: whether a batch is running. `pauses` grows with the work.
    """

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
