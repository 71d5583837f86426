"""Read the limits of the Linux control groups around this process, as in a container: memory and CPU time.

Versions 1 and 2. The cores of a cpuset need no file: the system's affinity has them.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

ENDLESS = 1 << 60
"""In cgroup v1, limits from this value on mean no limit."""

V2 = (("memory.max", "memory.high"), "memory.current", "")
V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_")
"""For cgroup v2 and v1: the files with limits, the file with usage, and the prefix of the fields in memory.stat."""


def memory(root: Path = Path("/")) -> tuple[int, int]:
    """The (available, total) bytes of the machine, or of the control groups if these have less."""
    machine = psutil.virtual_memory()
    available, total = zip((machine.available, machine.total), *group_bounds(root), strict=True)
    return max(0, min(available)), min(total)


def core_count(root: Path = Path("/")) -> int:
    """How many cores this process can keep busy: those that it may run on, or fewer if its CPU time is limited."""
    return max(1, int(min([len(usable_cores()), *_cpu_limits(root)])))


def usable_cores() -> frozenset[int]:
    """Numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def group_bounds(root: Path) -> Iterator[tuple[int, int]]:
    """Yield (free, limit) bytes of every control group around this process that has a limit."""
    for folder, unified in _folders(root, "memory"):
        limits, current, prefix = V2 if unified else V1
        for name in limits:
            limit = _number(folder / name)
            if limit is not None and limit < ENDLESS:
                yield limit - (_number(folder / current) or 0) + _file_pages(folder / "memory.stat", prefix), limit


def _cpu_limits(root: Path) -> Iterator[float]:
    """Yield the cores' worth of CPU time of every control group that has a limit."""
    for folder, unified in _folders(root, "cpu"):
        if unified:
            quota, period = _pair(folder / "cpu.max")
        else:
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            yield quota / period


def _folders(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of the groups around this process, the innermost first, and whether they are of cgroup v2.

    Yields groups whose path does not exist, too, as in a container; nothing on other systems.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        unified = not controllers
        if not unified and controller not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("" if unified else controller)
        group = base / path.strip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(base))):
            yield folder, unified


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # missing, or 'max'
        return None


def _pair(file: Path) -> tuple[int | None, int | None]:
    try:
        first, second = map(int, file.read_text().split())
    except (OSError, ValueError):  # missing, or 'max 100000'
        return None, None
    return first, second


def _file_pages(file: Path, prefix: str) -> int:
    """Return the bytes of page cache, which the system can reclaim."""
    try:
        fields = dict(line.split() for line in file.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return sum(int(fields.get(f"{prefix}{name}", 0)) for name in ("inactive_file", "active_file"))
