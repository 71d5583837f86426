"""Finds free TCP ports on loopback."""

import socket


def free_port() -> int:
    """A free TCP port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
