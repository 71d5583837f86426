"""Boots a real systemd in separate namespaces and runs the commands of systemd/README.md in it.

systemctl, journalctl and kill act on that systemd. The machine is not changed: /etc is a copy; /opt, /usr/local/sbin,
/run, /tmp and most of /var are empty; nothing is downloaded. /opt contains this Python, its packages, and the project.
Needs root and namespaces; `why_not` returns what is missing.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from tests.support.skips import NO_SYSTEMD, NOT_ROOT

ROOT = Path(__file__).parents[3]
SYSTEMD = Path("/lib/systemd/systemd")
PATIENCE_S = 300
UNSHARE = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--kill-child",
    "--mount",
    "--pid",
    "--fork",
    "--uts",
    "--ipc",
    "--cgroup",
)
PYTHON = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
SURROUNDINGS = {
    "PYTHON": PYTHON,
    "LD_LIBRARY_PATH": "/opt/python/lib",
    "PYTHONPATH": "/opt/packages",  # pip finds all dependencies here and downloads nothing
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # for pip, 0 means no isolation
    "HOME": "/root",
    "PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
}
"""Environment of the operator's commands."""

TRY = "mount -t proc proc /proc && mount -t cgroup2 none /sys/fs/cgroup && mkdir /sys/fs/cgroup/tried.$$ && rmdir $_"
NOT_ALLOWED = ("not permitted", "denied", "read-only", "not supported")

BOOT = """
set -eu
stage=$1; shift
mkdir "$stage"
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs "$stage"
cp -a /etc "$stage/etc"
bind() { mkdir -p "$stage/opt/$2"; mount --bind "$1" "$stage/opt/$2"; }
while [ $# -gt 0 ]; do bind "$1" "$2"; shift 2; done
mount --rbind "$stage/opt" /opt
mount --bind "$stage/etc" /etc
# What would reach the kernel, which is everybody's, is left out.
for unit in sysctl modules-load binfmt remount-fs udevd udev-trigger timesyncd networkd; do
    ln -sf /dev/null "/etc/systemd/system/systemd-$unit.service"
done
mkdir -p /usr/local/sbin
for each in /usr/local/sbin /run /tmp /var/tmp /var/log /var/cache /var/lib; do
    mount -t tmpfs -o mode=755 tmpfs $each
done
chmod 1777 /tmp /var/tmp
mkdir -p /run/systemd/system
printf '[Unit]\\nDefaultDependencies=no\\n' >/run/systemd/system/systemd.target
mount -t cgroup2 none /sys/fs/cgroup || true
mount --make-rshared /  # credentials reach their unit by propagation
export container=docker
exec /lib/systemd/systemd --system --unit=systemd.target --log-target=null --show-status=0
"""


@cache
def why_not() -> str:
    """The reason why this machine cannot boot a systemd; '' if it can, or if it should but fails."""
    if sys.platform != "linux":
        return "systemd runs on Linux"
    if os.geteuid() != 0:
        return NOT_ROOT
    if not SYSTEMD.exists() or not shutil.which("systemctl"):
        return NO_SYSTEMD
    tried = subprocess.run([*UNSHARE, "sh", "-c", TRY], capture_output=True, text=True, timeout=PATIENCE_S)
    refused = any(words in tried.stderr.lower() for words in NOT_ALLOWED)
    return f"namespaces are not allowed here ({tried.stderr.strip()})" if tried.returncode and refused else ""


class BootedSystemd:
    """A booted systemd."""

    def __init__(self, leader: int) -> None:
        self._inside = ("nsenter", "-t", str(leader), "-m", "-p", "--")

    async def tries(self, *command: str, stdin: str = "") -> tuple[int, str]:
        """Runs a command inside; its exit status and output."""
        process = await asyncio.create_subprocess_exec(*self._inside, *command, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
        async with asyncio.timeout(PATIENCE_S):
            told, _ = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return process.returncode, told.decode().strip()

    async def does(self, *command: str, stdin: str = "") -> str:
        """Runs a command that must succeed; its output."""
        status, told = await self.tries(*command, stdin=stdin)
        assert status == 0, f"{' '.join(command)}: {told}"
        return told

    async def follows(self, script: str, where: str, stdin: str = "", **more: str) -> str:
        """Runs operator commands with bash in a directory; they must succeed. `more` is added to the environment."""
        words = [f"{name}={value}" for name, value in (SURROUNDINGS | more).items()]
        run = ("env", "-i", "-C", where, *words, "bash", "-euo", "pipefail", "-c", script)
        return await self.does(*run, stdin=stdin)

    async def write(self, path: str, text: str, mode: str = "644", owner: str = "root:root") -> None:
        """Writes a file and its parent directories."""
        user, group = owner.split(":")
        await self.does("install", "-D", "-m", mode, "-o", user, "-g", group, "/dev/stdin", path, stdin=text)

    async def shows(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return await self.does("systemctl", "show", "--property", name, "--value", unit)


@asynccontextmanager
async def boot_systemd(stage: Path, shown: Mapping[Path, str]) -> AsyncIterator[BootedSystemd]:
    """Boots in `stage`; `shown` maps directories to their places below /opt."""
    binds = {Path(sys.base_prefix): "python", Path(sysconfig.get_path("purelib")): "packages", ROOT: "source"}
    words = [str(word) for pair in (binds | dict(shown)).items() for word in pair]
    outer = await asyncio.create_subprocess_exec(
        *UNSHARE, "sh", "-c", BOOT, "boot", str(stage), *words, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    leader = 0
    try:
        async with asyncio.timeout(PATIENCE_S):
            leader = await _first_child(outer)
            systemd = BootedSystemd(leader)
            await _until_up(systemd, outer)
        yield systemd
    finally:
        with suppress(ProcessLookupError):
            os.kill(leader, signal.SIGKILL) if leader else outer.kill()
        await outer.communicate()


async def _first_child(outer: Process) -> int:
    while outer.returncode is None:
        if found := psutil.Process(outer.pid).children():
            return found[0].pid
        await asyncio.sleep(0.05)
    raise AssertionError(await _said(outer))


async def _until_up(systemd: BootedSystemd, outer: Process) -> None:
    while outer.returncode is None:
        if (await systemd.tries("systemctl", "is-system-running"))[1] in ("running", "degraded"):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(await _said(outer))


async def _said(outer: Process) -> str:
    assert outer.stdout is not None
    return (await outer.stdout.read()).decode()
