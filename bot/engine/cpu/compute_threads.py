"""Threads that compute, each only as long as it has something to compute.

torch's OpenMP gives every thread that computes helpers of its own, and these wait for work at the ready only as long as
the process has no more of them than processors; else they sleep, and waking them a thousand times a step makes it up to
a third slower (bench/RESULTS.md). They go when their thread ends. So no thread keeps helpers while another computes.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def apart(work: Callable[[], T]) -> T:
    """Do it on a thread of its own, which has ended when this returns or raises what the work did."""
    with ThreadPoolExecutor(1, "apart") as pool:
        return pool.submit(work).result()
