"""Whether the engine's process has grown beyond what its model explains, looked at whenever it has nothing to do.

In: what the process took right after a load. Out: '' or a sentence, on which the service replaces the process. It is
measured again after everything unused was given back, so that memory which is merely kept for later is no reason.
"""

from collections.abc import Callable
from dataclasses import dataclass

FACTOR = 1.5
SPARE_MB = 512
"""RAM may grow to FACTOR times what it was, and so much more: allocators keep pieces, and libraries warm up."""

GPU_SPARE_MB = 1024
"""GPU memory may grow by so much: once torch's own cache is emptied, hardly anything should be left of answers."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a process takes, in MB."""

    ram: int
    gpu: int


class MemoryWatch:
    """One process's memory. `measure` and `give_back` are called on the thread that asks."""

    def __init__(self, measure: Callable[[], Taken], give_back: Callable[[], None]) -> None:
        self._measure, self._give_back = measure, give_back
        self._limit: Taken | None = None
        self._rest = Taken(0, 0)

    @property
    def limit_mb(self) -> int:
        """What the process may take of the RAM; 0 while no model is loaded."""
        limit = self._limit
        return limit.ram if limit is not None else 0

    def forget(self) -> None:
        """A load begins: nothing that is measured now means anything."""
        self._limit = None

    def begin(self, unused_cache_mb: int) -> None:
        """A model has just been loaded. unused_cache_mb: RAM that its KV cache takes only as it fills."""
        self._give_back()
        rest = self._rest = self._measure()
        self._limit = Taken(int(FACTOR * (rest.ram + unused_cache_mb)) + SPARE_MB, rest.gpu + GPU_SPARE_MB)

    def grown(self) -> str:
        """How far it has grown beyond its limit, though nothing is being generated; '' if it has not."""
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


def _excess(taken: Taken, limit: Taken) -> bool:
    return taken.ram > limit.ram or taken.gpu > limit.gpu
