"""Raises the score by which the kernel chooses what to kill when memory runs out: an engine before the service."""

import contextlib
from pathlib import Path

OOM_SCORE = 500
OOM_STEP, OOM_MOST = 100, 1000
SCORE = Path("/proc/self/oom_score_adj")


def raised_oom_score() -> str:
    """The score of a child that is to be killed before this process; '' without such a score (Linux only)."""
    with contextlib.suppress(OSError, ValueError):
        return str(min(OOM_MOST, max(OOM_SCORE, int(SCORE.read_text()) + OOM_STEP)))
    return ""


def raise_oom_score() -> None:
    """Raise this process's score above its parent's. Raising it needs no privilege, lowering it needs root."""
    with contextlib.suppress(OSError):
        if score := raised_oom_score():
            SCORE.write_text(score)
