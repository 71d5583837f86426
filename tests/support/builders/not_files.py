"""Creates things that are not regular files, by label: FIFOs, directories, sockets, links."""

import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path


def make_socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # socket addresses are limited to about 100 bytes
        made.bind(path.name)
        os.chdir(here)


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


OTHERS: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a directory": Path.mkdir,
    "a socket": make_socket,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a dangling link": lambda path: path.symlink_to(path.with_name("gone")),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to a FIFO": link_to_fifo,
}
"""Factories of things that may lie at the path of a file."""
