"""Measures how much memory is available for models: of the machine, of this process's control groups, of the GPU.

Leaves a reserve. Weights that are mapped from their file count as taken, although the system reports their pages as
free, because they are read at every token.
"""

from collections.abc import Callable
from pathlib import Path

import psutil

from bot.engine.memory.leak_detector import MemoryUsage
from bot.models.control_groups import group_bounds

MB = 1 << 20
RESERVE_SHARE, RESERVE_MB = 0.1, 1024
"""Reserve: this share of the memory or so many MB, whichever is more."""


class AvailableMemory:
    """Available memory of this machine for this process. `gpu` returns (free, total) bytes of the card."""

    def __init__(self, gpu: Callable[[], tuple[int, int]], root: Path = Path("/")) -> None:
        self._gpu, self._root = gpu, root
        self._process = psutil.Process()

    def available(self) -> MemoryUsage:
        """Return the MB that may still be taken; negative when the reserve is in use."""
        machine = psutil.virtual_memory()
        bounds = [(machine.available, machine.total), *group_bounds(self._root)]
        mapped = getattr(self._process.memory_info(), "shared", 0)
        ram = min(left_of(free, total) for free, total in bounds) - mapped
        return MemoryUsage(ram // MB, left_of(*self._gpu()) // MB)


def left_of(free: int, total: int) -> int:
    """Return the free bytes less the reserve."""
    return int(free - max(RESERVE_SHARE * total, RESERVE_MB * MB))
