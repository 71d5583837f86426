"""A real systemd in namespaces of its own, with Inhouse installed in it as systemd/README.md says.

In: directories to show inside, by the path that they have there. Out: commands run where systemctl, journalctl and kill
mean that systemd. It changes nothing of the machine: /etc is a copy, /opt, /run, /tmp and most of /var are empty. /opt
holds the project, with the Python and the packages that run this. Needs root and namespaces; `why_not` says what lacks.
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
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
SYSTEMD = Path("/lib/systemd/systemd")
PATIENCE_S = 60
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup")
PACKAGES = sysconfig.get_path("purelib")
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"

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
for each in /run /tmp /var/tmp /var/log /var/cache /var/lib; do mount -t tmpfs -o mode=755 tmpfs $each; done
chmod 1777 /tmp /var/tmp
mkdir -p /run/systemd/system
printf '[Unit]\\nDefaultDependencies=no\\n' >/run/systemd/system/lab.target
mount -t cgroup2 none /sys/fs/cgroup || true
mount --make-rshared /  # credentials reach their unit by propagation
export container=docker
exec /lib/systemd/systemd --system --unit=lab.target --log-target=null --show-status=0
"""

COMMAND = f"""#!/opt/inhouse/bin/{VERSION}
import sys
from bot.cli import main
sys.exit(main())
"""


def why_not() -> str:
    """Why this machine cannot do it; '' if it can."""
    if sys.platform != "linux":
        return "systemd runs on Linux"
    if os.geteuid() != 0:
        return "booting a systemd needs root"
    if not SYSTEMD.exists() or not shutil.which("systemctl"):
        return "systemd is not installed"
    tried = subprocess.run([*UNSHARE, "mount", "-t", "proc", "proc", "/proc"], capture_output=True, text=True)
    return f"namespaces are not allowed here ({tried.stderr.strip()})" if tried.returncode else ""


class Lab:
    """A systemd that has booted."""

    def __init__(self, leader: int) -> None:
        self._inside = ("nsenter", "-t", str(leader), "-m", "-p", "--")

    async def tries(self, *command: str, stdin: str = "") -> tuple[int, str]:
        """Run a command inside; its exit status and all that it printed."""
        process = await asyncio.create_subprocess_exec(*self._inside, *command, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
        async with asyncio.timeout(PATIENCE_S):
            told, _ = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return process.returncode, told.decode().strip()

    async def does(self, *command: str, stdin: str = "") -> str:
        """As `tries`, of a command that has to succeed; what it printed."""
        status, told = await self.tries(*command, stdin=stdin)
        assert status == 0, f"{' '.join(command)}: {told}"
        return told

    async def write(self, path: str, text: str, mode: str = "644", owner: str = "root:root") -> None:
        """Put a file there, and what it lies in."""
        user, group = owner.split(":")
        await self.does("install", "-D", "-m", mode, "-o", user, "-g", group, "/dev/stdin", path, stdin=text)

    async def shows(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return await self.does("systemctl", "show", "--property", name, "--value", unit)


@asynccontextmanager
async def systemd_lab(stage: Path, shown: Mapping[Path, str]) -> AsyncIterator[Lab]:
    """Boot, with `stage` as the place to prepare it in; `shown` maps directories to their places below /opt."""
    binds = {Path(sys.base_prefix): "python", Path(PACKAGES): f"inhouse/lib/{VERSION}/site-packages", ROOT: "source"}
    words = [str(word) for pair in (binds | dict(shown)).items() for word in pair]
    outer = await asyncio.create_subprocess_exec(
        *UNSHARE, "sh", "-c", BOOT, "boot", str(stage), *words, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    leader = 0
    try:
        async with asyncio.timeout(PATIENCE_S):
            leader = await _first_child(outer)
            lab = Lab(leader)
            await _until_up(lab, outer)
        await _install(lab)
        yield lab
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


async def _until_up(lab: Lab, outer: Process) -> None:
    while outer.returncode is None:
        if (await lab.tries("systemctl", "is-system-running"))[1] in ("running", "degraded"):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(await _said(outer))


async def _said(outer: Process) -> str:
    assert outer.stdout is not None
    return (await outer.stdout.read()).decode()


async def _install(lab: Lab) -> None:
    """A venv in /opt, whose interpreter and packages are those that run this, and the project's files for systemd."""
    python = f"/opt/inhouse/bin/{VERSION}"
    await lab.write("/opt/inhouse/pyvenv.cfg", "home = /opt/python/bin\n")
    await lab.write("/opt/inhouse/bin/inhouse", COMMAND, "755")
    await lab.does("ln", "-s", f"/opt/python/bin/{VERSION}", python)
    for name, place in (
        ("inhouse.service", "/etc/systemd/system/inhouse.service"),
        ("sysusers.conf", "/etc/sysusers.d/inhouse.conf"),
        ("modules-load.conf", "/etc/modules-load.d/inhouse.conf"),
    ):
        await lab.write(place, (ROOT / "systemd" / name).read_text("utf-8"))
    await lab.does("systemd-sysusers", "inhouse.conf")
    await lab.does("systemctl", "daemon-reload")
