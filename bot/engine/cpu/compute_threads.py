"""Runs computation on threads that end with their work.

torch's OpenMP gives every computing thread its own helper threads. They spin while the process has no more of them than
processors. With more they sleep, and waking them a thousand times per step makes the step up to a third
slower (docs/measurements.md). Helpers end with their thread, so no thread may keep helpers while another one computes.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def run_on_new_thread(work: Callable[[], T]) -> T:
    """Run `work` on a new thread, wait until that thread has ended, and return or raise what the work did."""
    with ThreadPoolExecutor(1, "run_on_new_thread") as pool:
        return pool.submit(work).result()
