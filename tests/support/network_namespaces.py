"""Network namespaces, whose links to this process's namespace are plugged into bridges; for Linux and root.

Nothing is left when the processes have ended, whatever ended them: the kernel removes a namespace with its links after
its last process.
"""

import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
PATIENCE_S = 10.0


def leave_for_new() -> None:
    """Moves this thread, and all that it starts from now on, into a network namespace without any link."""
    _check(ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET), "make a network namespace")
    _ip("link", "set", "lo", "up")


def enter(pid: int) -> None:
    """Moves this thread, and all that it starts from now on, into the network namespace of a process."""
    with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
        _check(
            ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET), f"enter the namespace of {pid}"
        )


def add_bridge(name: str, *addresses: str) -> None:
    """Adds a bridge on which this namespace has the addresses ('10.1.2.3/24')."""
    _ip("link", "add", name, "type", "bridge")
    for address in addresses:
        _ip("address", "add", address, "dev", name)
    _ip("link", "set", name, "up")


class Namespace:
    """A namespace, which a process of its own keeps."""

    def __init__(self, name: str, pid: int) -> None:
        self.name, self.pid = name, pid

    def add_link(self, bridge: str, address: str) -> None:
        """Plugs a link into a bridge; `address` is this namespace's on it."""
        here, there = self._ends(bridge)
        _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", str(self.pid))
        inside = ("nsenter", "--net", f"--target={self.pid}")
        _ip("address", "add", address, "dev", there, within=inside)
        _ip("link", "set", there, "up", within=inside)
        _ip("link", "set", here, "up")
        self.plug(bridge)

    def plug(self, bridge: str) -> None:
        """Connects the link with its bridge."""
        _ip("link", "set", self._ends(bridge)[0], "master", bridge)

    def unplug(self, bridge: str) -> None:
        """Takes the link from its bridge: packets get lost both ways, and neither end is told."""
        _ip("link", "set", self._ends(bridge)[0], "nomaster")

    def _ends(self, bridge: str) -> tuple[str, str]:
        return f"{self.name}-{bridge}", bridge


@contextmanager
def run_namespace(name: str) -> Iterator[Namespace]:
    """Keeps a namespace until the block ends."""
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
    keeper = subprocess.Popen(command, start_new_session=True)  # Ctrl-C must not end it before its users
    try:
        end, ours = time.monotonic() + PATIENCE_S, Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{keeper.pid}/ns/net").readlink() == ours:
            assert time.monotonic() < end, "there is no new namespace"
            time.sleep(0.01)
        _ip("link", "set", "lo", "up", within=("nsenter", "--net", f"--target={keeper.pid}"))
        yield Namespace(name, keeper.pid)
    finally:
        keeper.kill()
        keeper.wait()


def _ip(*words: str, within: tuple[str, ...] = ()) -> None:
    done = subprocess.run([*within, "ip", *words], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _check(status: int, what: str) -> None:
    if status:
        raise OSError(ctypes.get_errno(), f"cannot {what}: {os.strerror(ctypes.get_errno())}")
