"""Detects that the idle engine process has grown beyond what its model explains.

Compares with what the process took right after the load. It frees unused memory and measures again before it reports a
leak, so that memory kept for reuse does not count. The service replaces the process on a report.
"""

from collections.abc import Callable
from dataclasses import dataclass

FACTOR = 1.5
SPARE_MB = 512
"""RAM may grow to FACTOR times the first value plus this: allocators keep memory, and libraries warm up."""

GPU_SPARE_MB = 1024
"""GPU memory may grow by this: once torch's cache is emptied, answers should leave almost nothing."""


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """RAM and GPU memory, in MB."""

    ram: int
    gpu: int


class LeakDetector:
    """Leak detector of this process. `measure` and `give_back` run on the calling thread."""

    def __init__(self, measure: Callable[[], MemoryUsage], give_back: Callable[[], None]) -> None:
        self._measure, self._give_back = measure, give_back
        self._limit: MemoryUsage | None = None
        self._rest = MemoryUsage(0, 0)

    @property
    def limit_mb(self) -> int:
        """RAM (MB) that the process may take; 0 while no model is loaded."""
        limit = self._limit
        return limit.ram if limit is not None else 0

    def forget(self) -> None:
        """Clear the limits when a load begins, because measurements during a load are meaningless."""
        self._limit = None

    def begin(self, unused_cache_mb: int) -> None:
        """Set the limits after a load. unused_cache_mb: RAM that the KV cache may still grow by."""
        self._give_back()
        rest = self._rest = self._measure()
        self._limit = MemoryUsage(int(FACTOR * (rest.ram + unused_cache_mb)) + SPARE_MB, rest.gpu + GPU_SPARE_MB)

    def grown(self) -> str:
        """Return a sentence if the idle process exceeds a limit, else ''."""
        limit = self._limit
        if limit is None or not _excess(self._measure(), limit):
            return ""
        self._give_back()
        taken = self._measure()
        if not _excess(taken, limit):
            return ""
        if taken.ram > limit.ram:
            return f"The engine has grown from {self._rest.ram} to {taken.ram} MB of memory with nothing to do."
        return f"The engine has grown from {self._rest.gpu} to {taken.gpu} MB of GPU memory with nothing to do."


def _excess(taken: MemoryUsage, limit: MemoryUsage) -> bool:
    return taken.ram > limit.ram or taken.gpu > limit.gpu
