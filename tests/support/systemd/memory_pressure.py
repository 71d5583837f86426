"""Runs a service in the systemd out of memory, so that the kernel kills one of its processes.

Limits the service's processes to slightly more than they use, and starts another one that needs a lot. With cgroup
version 1, moves the main process to a new group; an engine that starts later is in that group too (memory stays charged
to the group where it was allocated).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.support.systemd.booted_systemd import PYTHON, BootedSystemd
from tests.support.systemd.installed_service import InstalledService

SPARE = 8 << 20
PATIENCE_S = 60.0
KILLED = "^oom_kill [1-9]"
OLD = "/opt/memory"
"""Mount point of the version 1 memory controller in the systemd."""
JOIN = "echo $$ >{group}/cgroup.procs; exec env LD_LIBRARY_PATH=/opt/python/lib {python} -c 'b\"x\" * {size}'"


@dataclass(frozen=True)
class Memory:
    """The memory of a control group; `used`, `limit` and `events` are files in its directory, `none` means no limit."""

    systemd: BootedSystemd
    group: str
    used: str
    limit: str
    none: str
    events: str

    async def runs_out(self, engine: int) -> None:
        """Makes the kernel kill a process, by allocating as much as the engine has above the limit, or more; then
        lifts the limit."""
        own = await self.systemd.does("awk", "/^RssAnon/ { print $2 }", f"/proc/{engine}/status")
        async with asyncio.timeout(PATIENCE_S):  # the kernel refuses a limit below what is used by then
            while not await self._is_bound():
                pass
        for times in (1, 2, 4):  # the kernel may find other memory to free first
            # This process may be killed too, if it allocates faster than the kernel frees the engine's memory.
            more = JOIN.format(group=self.group, python=PYTHON, size=times * int(own) * 1024)
            await self.systemd.tries("sh", "-c", more)
            if (await self.systemd.tries("grep", KILLED, f"{self.group}/{self.events}"))[0] == 0:
                break
        await self._bound(self.none)
        await self.systemd.does("grep", KILLED, f"{self.group}/{self.events}")

    async def _is_bound(self) -> bool:
        """Sets the limit slightly above what is used now; False if the kernel refuses it."""
        most = int(await self.systemd.does("cat", f"{self.group}/{self.used}")) + SPARE
        status, _ = await self.systemd.tries("sh", "-c", f"echo {most} >{self.group}/{self.limit}")
        return status == 0

    async def _bound(self, limit: str) -> None:
        await self.systemd.does("sh", "-c", f"echo {limit} >{self.group}/{self.limit}")


@asynccontextmanager
async def memory_of(installed: InstalledService) -> AsyncIterator[Memory]:
    """The memory group of the service's processes, or at least of those that start in this block."""
    systemd, group = installed.systemd, await installed.group()
    if (await systemd.tries("test", "-e", f"{group}/memory.max"))[0] == 0:
        yield Memory(systemd, group, "memory.current", "memory.max", "max", "memory.events")
        return
    await systemd.does("mkdir", "-p", OLD)
    await systemd.does("mount", "-t", "cgroup", "-o", "memory", "memory", OLD)
    old = await systemd.does("mktemp", "-d", f"{OLD}/inhouse-systemd.XXXXXX")
    try:
        await systemd.does("sh", "-c", f"echo {(await installed.pids())['main']} >{old}/cgroup.procs")
        yield Memory(systemd, old, "memory.usage_in_bytes", "memory.limit_in_bytes", "-1", "memory.oom_control")
    finally:
        await systemd.does(
            "sh", "-c", f"for each in $(cat {old}/cgroup.procs); do echo $each >{OLD}/cgroup.procs; done"
        )
        await systemd.does("rmdir", old)
        await systemd.does("umount", OLD)
