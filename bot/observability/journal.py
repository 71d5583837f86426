"""systemd's journal: whether a stream leads there, and the priority that begins each of its lines.

In: a stream, text and a level of the stdlib's logging. Out: text that journald files under the right priority.
"""

import logging
import os
from typing import TextIO

PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Levels, from the top down, and what syslog calls them; what is below them is 7."""


def leads_to_journal(stream: TextIO) -> bool:
    """Whether what is written to this stream goes straight to the journal: JOURNAL_STREAM names it by device and inode.

    The variable alone says nothing: it is inherited by processes whose streams were led elsewhere.
    """
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no descriptor, or a closed one
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def prefixed(text: str, level: int) -> str:
    """The text with its priority before each line, since each line becomes an entry of its own."""
    priority = next((number for least, number in PRIORITIES if level >= least), 7)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))
