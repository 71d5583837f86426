"""Detect whether a stream is connected to systemd's journal, and prefix lines with their syslog priority."""

import logging
import os
from typing import TextIO

PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Minimum logging level and its syslog priority, highest first; lower levels get 7."""


def leads_to_journal(stream: TextIO) -> bool:
    """Whether this stream is connected to the journal: JOURNAL_STREAM contains its device and inode.

    The presence of the variable is not enough, because child processes with redirected streams inherit it.
    """
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no descriptor, or a closed one
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def prefixed(text: str, level: int) -> str:
    """Prefix every line with its priority; journald stores each line as a separate entry."""
    priority = next((number for least, number in PRIORITIES if level >= least), 7)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))
