"""Records all connections and host name look-ups of Python processes with an audit hook.

`witnessed(folder)` returns environment variables: each process with them, and each Python that it starts, appends a
line per connection and look-up to `folder`/seen. The hook does not see sockets of native libraries; on Linux
`connections_of` reads those from the kernel's table.
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
    """The environment variables to add. `paths` are further entries of PYTHONPATH."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK)
    return {"WITNESS": str(folder / "seen"), "PYTHONPATH": os.pathsep.join(map(str, (folder, *paths)))}


def seen(folder: Path) -> set[tuple[str, str]]:
    """The recorded events with their hosts."""
    lines = (folder / "seen").read_text().splitlines()
    return {(event, host) for event, _, host in (line.partition(" ") for line in lines)}


def strangers(hosts: set[str]) -> set[str]:
    """The hosts that are not this machine."""
    return {host for host in hosts if not _is_here(host)}


def connections_of(pid: int) -> set[str]:
    """The current remote addresses of a process and its children, from the kernel."""
    parent = psutil.Process(pid)
    lines = [each for process in (parent, *parent.children(recursive=True)) for each in process.net_connections("inet")]
    addresses = [tuple(line.raddr) for line in lines]  # empty for listening sockets
    return {str(address[0]) for address in addresses if address}


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "None")
