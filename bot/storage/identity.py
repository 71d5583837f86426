"""The name under which a host uses a database with others; its state directory keeps it."""

import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from bot.storage.atomic_file import new_file
from bot.storage.files import check_file
from bot.types.display_names import one_line

OWNER = "instance"
"""File in a state directory with the name of its host, so that a restart goes on with what the host held."""
LONGEST_NAME = 200
"""Characters of a name that a person wrote into that file; notifications, which contain it, hold 8,000 bytes."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Tells a machine from all others, also from its clones, until it restarts; containers have that of their machine."""


@dataclass(frozen=True, slots=True)
class Identity:
    """place: tells the directory from its copies, as long as neither it nor its machine changes."""

    name: str
    place: str


def identity_of(directory: Path) -> Identity:
    """Return the identity of the host of a state directory, which gets a name if it has none.

    The name has that of the machine at the first start, and an id. Raises ConfigError if the file cannot be used, and
    StorageError or OSError if the disk fails.
    """
    found = identity_in(directory)
    if found is None:
        name = f"{one_line(socket.gethostname())}-{uuid.uuid4().hex[:8]}"  # a system takes any bytes as its name
        with new_file(directory / OWNER, force=True) as new:
            new.write_text(name, "utf-8")
        found = Identity(name, _place(directory / OWNER))
    return found


def identity_in(directory: Path) -> Identity | None:
    """Return the identity that a state directory keeps, None before the first start. Raises ConfigError and OSError."""
    path = directory / OWNER
    check_file(path)
    name = one_line(path.read_text("utf-8", "replace"), LONGEST_NAME) if path.exists() else ""
    return Identity(name, _place(path)) if name else None


def _place(path: Path) -> str:
    try:
        machine = BOOT_ID.read_text("ascii").strip()
    except OSError:  # another system than Linux
        machine = one_line(socket.gethostname())
    found = path.stat()
    return f"{machine} {found.st_dev}:{found.st_ino}"
