"""How much memory is left for models: of the machine, of the groups that bound this process, of the GPU.

Out: MB of RAM and of GPU memory that may still be taken, a reserve left alone. Promise: weights that are mapped from
their file count as taken, although the system calls their pages free: they are read at every token.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from bot.engine.memory.leak_detector import Taken

MB = 1 << 20
RESERVE_SHARE, RESERVE_MB = 0.1, 1024
"""What is left alone: this share of the memory, or so much, whichever is more."""

ENDLESS = 1 << 60
"""From here on, a limit of the old groups means none."""

V2 = (("memory.max", "memory.high"), "memory.current", "")
V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_")
"""Of new and old groups: the files with limits and with what is used, and how the fields of memory.stat begin."""


class Room:
    """This machine's, for this process. `gpu`: (free, all) bytes on the card."""

    def __init__(self, gpu: Callable[[], tuple[int, int]], root: Path = Path("/")) -> None:
        self._gpu, self._root = gpu, root
        self._process = psutil.Process()

    def left(self) -> Taken:
        """What may still be taken; below 0 where the reserve is in use."""
        machine = psutil.virtual_memory()
        bounds = [(machine.available, machine.total), *group_bounds(self._root)]
        mapped = getattr(self._process.memory_info(), "shared", 0)
        ram = min(left_of(free, total) for free, total in bounds) - mapped
        return Taken(ram // MB, left_of(*self._gpu()) // MB)


def left_of(free: int, total: int) -> int:
    """What of the free bytes may be taken."""
    return int(free - max(RESERVE_SHARE * total, RESERVE_MB * MB))


def group_bounds(root: Path) -> Iterator[tuple[int, int]]:
    """(free, limit) bytes of every control group around this process that has a limit; none but on Linux."""
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
    """The bounds of a group and of those it is in. In a container its path may not be there: then those that are."""
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
    except (OSError, ValueError):  # 'max' is no number
        return None


def _file_pages(file: Path, prefix: str) -> int:
    """Bytes of files that the system keeps, and lets go of when the memory is wanted."""
    try:
        fields = dict(line.split() for line in file.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return sum(int(fields.get(f"{prefix}{name}", 0)) for name in ("inactive_file", "active_file"))
