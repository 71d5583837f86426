"""Memory that runs out for a service in the lab, so that the kernel has to kill one of its processes.

The service's processes are bounded at a little more than they use, and one more that wants a lot joins them. Where the
kernel's memory controller is the older one (version 1), they are moved to a group of it, and a new engine is started
there: what a process already has is charged to where it was.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.systemd_lab import PYTHON, Lab
from tests.systemd_story import Story

MB = 1 << 20
SPARE, GREED = 8 * MB, 100 * MB
OLD = "/opt/memory"
"""Where the older controller is shown in the lab."""
JOIN = "echo $$ >{group}/cgroup.procs; exec env LD_LIBRARY_PATH=/opt/python/lib {python} -c 'b\"x\" * {size}'"


@asynccontextmanager
async def memory_runs_out(story: Story) -> AsyncIterator[dict[str, int]]:
    """The processes as they were before; inside, one was killed for want of memory, and there is enough again."""
    lab = story.lab
    group = await story.group()
    if (await lab.tries("test", "-e", f"{group}/memory.max"))[0] == 0:
        before = await story.pids()
        await _run_out(lab, group, "memory.current", "memory.max", "max", "memory.events")
        yield before
        return
    await lab.does("mkdir", "-p", OLD)
    await lab.does("mount", "-t", "cgroup", "-o", "memory", "memory", OLD)
    old = await lab.does("mktemp", "-d", f"{OLD}/inhouse-lab.XXXXXX")
    before = await story.pids()
    try:
        await lab.does("sh", "-c", f"echo {before['main']} >{old}/cgroup.procs")
        await story.signals("KILL", "engine")
        await story.talks("a canary in between")
        before = await story.pids()
        await _run_out(lab, old, "memory.usage_in_bytes", "memory.limit_in_bytes", "-1", "memory.oom_control")
        yield before
    finally:
        await lab.does("sh", "-c", f"for each in $(cat {old}/cgroup.procs); do echo $each >{OLD}/cgroup.procs; done")
        await lab.does("rmdir", old)
        await lab.does("umount", OLD)


async def _run_out(lab: Lab, group: str, used: str, limit: str, none: str, events: str) -> None:
    most = int(await lab.does("cat", f"{group}/{used}")) + SPARE
    await lab.does("sh", "-c", f"echo {most} >{group}/{limit}")
    await lab.does("sh", "-c", JOIN.format(group=group, python=PYTHON, size=GREED))
    await lab.does("sh", "-c", f"echo {none} >{group}/{limit}")
    await lab.does("grep", "^oom_kill [1-9]", f"{group}/{events}")
