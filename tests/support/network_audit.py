"""Where processes connect to and what names they look up, told by the interpreter itself to a file.

`witnessed(folder)` is an environment for processes: each of them, and each Python that they start, adds a line for
every connection and every look-up to `folder`/seen. What is not Python's own socket (a library's native code) is not
seen; on Linux the kernel's table of connections is there for that (`connections_of`).
"""

import ipaddress
import os
from pathlib import Path

import psutil

HOOK = """
import os, sys
_seen = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
def _witness(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        where = arguments[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        where = arguments[:1]
    else:
        return
    if isinstance(where, tuple):
        os.write(_seen, f"{event} {where[0]}\\n".encode())
sys.addaudithook(_witness)
"""


def witnessed(folder: Path, *paths: Path) -> dict[str, str]:
    """What to add to the environment of a process. `paths` are what its PYTHONPATH holds besides."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK)
    return {"WITNESS": str(folder / "seen"), "PYTHONPATH": os.pathsep.join(map(str, (folder, *paths)))}


def seen(folder: Path) -> set[tuple[str, str]]:
    """What was done, and with which host."""
    lines = (folder / "seen").read_text().splitlines()
    return {(event, host) for event, _, host in (line.partition(" ") for line in lines)}


def strangers(hosts: set[str]) -> set[str]:
    """The hosts that are not this machine."""
    return {host for host in hosts if not _is_here(host)}


def connections_of(pid: int) -> set[str]:
    """Where a process and its children are connected to at this moment, as the kernel says."""
    parent = psutil.Process(pid)
    lines = [each for process in (parent, *parent.children(recursive=True)) for each in process.net_connections("inet")]
    addresses = [tuple(line.raddr) for line in lines]  # empty for one that only listens
    return {str(address[0]) for address in addresses if address}


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "None")
