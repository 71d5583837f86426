"""Memory that runs out for a service in the lab, so that the kernel has to kill one of its processes.

The service's processes are bounded at a little more than they use, and one more that wants a lot joins them. Where the
kernel's memory controller is the older one (version 1), the main one is moved to a group of it, where an engine that is
started then lives, too: what a process already has stays charged to where it was.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.support.systemd.booted_systemd import PYTHON, Lab
from tests.support.systemd.installed_service import Story

SPARE = 8 << 20
OLD = "/opt/memory"
"""Where the older controller is shown in the lab."""
JOIN = "echo $$ >{group}/cgroup.procs; exec env LD_LIBRARY_PATH=/opt/python/lib {python} -c 'b\"x\" * {size}'"


@dataclass(frozen=True)
class Memory:
    """What a group of processes has; `used`, `limit` and `events` are files in its directory, `none` means no limit."""

    lab: Lab
    group: str
    used: str
    limit: str
    none: str
    events: str

    async def runs_out(self, engine: int) -> None:
        """The kernel kills one of the processes, for half of what the engine has; afterwards there is enough again."""
        own = await self.lab.does("awk", "/^RssAnon/ { print $2 }", f"/proc/{engine}/status")
        most = int(await self.lab.does("cat", f"{self.group}/{self.used}")) + SPARE
        await self._bound(str(most))
        # This one may be killed, too, if it is quicker than the kernel with what the engine had.
        await self.lab.tries("sh", "-c", JOIN.format(group=self.group, python=PYTHON, size=int(own) * 1024 // 2))
        await self._bound(self.none)
        await self.lab.does("grep", "^oom_kill [1-9]", f"{self.group}/{self.events}")

    async def _bound(self, limit: str) -> None:
        await self.lab.does("sh", "-c", f"echo {limit} >{self.group}/{self.limit}")


@asynccontextmanager
async def memory_of(story: Story) -> AsyncIterator[Memory]:
    """The memory of the service's processes, of those at least that are started in this block."""
    lab, group = story.lab, await story.group()
    if (await lab.tries("test", "-e", f"{group}/memory.max"))[0] == 0:
        yield Memory(lab, group, "memory.current", "memory.max", "max", "memory.events")
        return
    await lab.does("mkdir", "-p", OLD)
    await lab.does("mount", "-t", "cgroup", "-o", "memory", "memory", OLD)
    old = await lab.does("mktemp", "-d", f"{OLD}/inhouse-lab.XXXXXX")
    try:
        await lab.does("sh", "-c", f"echo {(await story.pids())['main']} >{old}/cgroup.procs")
        yield Memory(lab, old, "memory.usage_in_bytes", "memory.limit_in_bytes", "-1", "memory.oom_control")
    finally:
        await lab.does("sh", "-c", f"for each in $(cat {old}/cgroup.procs); do echo $each >{OLD}/cgroup.procs; done")
        await lab.does("rmdir", old)
        await lab.does("umount", OLD)
