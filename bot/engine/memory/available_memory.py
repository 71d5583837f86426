"""Measures how much memory is available for models: of the machine, of this process's control groups, of the GPU.

Leaves a reserve. Weights that are mapped from their file count as taken, although the system reports their pages as
free, because they are read at every token.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from bot.engine.memory.leak_detector import MemoryUsage

MB = 1 << 20
RESERVE_SHARE, RESERVE_MB = 0.1, 1024
"""Reserve: this share of the memory or so many MB, whichever is more."""

ENDLESS = 1 << 60
"""In cgroup v1, limits from this value on mean no limit."""

V2 = (("memory.max", "memory.high"), "memory.current", "")
V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_")
"""For cgroup v2 and v1: the files with limits, the file with usage, and the prefix of the fields in memory.stat."""


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


def group_bounds(root: Path) -> Iterator[tuple[int, int]]:
    """Yield (free, limit) bytes of every control group around this process that has a limit (Linux only)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _around(root / "sys/fs/cgroup", path, V2)
        elif "memory" in controllers.split(","):
            yield from _around(root / "sys/fs/cgroup/memory", path, V1)


def _around(base: Path, path: str, files: tuple[tuple[str, ...], str, str]) -> Iterator[tuple[int, int]]:
    """Yield the bounds of a group and its parents. Skips groups whose path does not exist, as in a container."""
    limits, current, prefix = files
    group = base / path.strip("/")
    for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(base))):
        for name in limits:
            limit = _number(folder / name)
            if limit is not None and limit < ENDLESS:
                yield limit - (_number(folder / current) or 0) + _file_pages(folder / "memory.stat", prefix), limit


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # missing, or 'max'
        return None


def _file_pages(file: Path, prefix: str) -> int:
    """Return the bytes of page cache, which the system can reclaim."""
    try:
        fields = dict(line.split() for line in file.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return sum(int(fields.get(f"{prefix}{name}", 0)) for name in ("inactive_file", "active_file"))
