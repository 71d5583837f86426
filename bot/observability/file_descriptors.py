"""Read and raise the number of file descriptors that this process may have open."""

import math
import sys
from contextlib import suppress

ENOUGH = 8192
"""Raise to this, not to the hard limit: that may be a billion, and some programs close each possible descriptor."""

if sys.platform == "win32":

    def soft_limit() -> float:
        """The most descriptors that may be open now; infinite where the system sets no limit."""
        return math.inf

    def raise_soft_limit() -> None:
        """Raise the soft limit towards the hard one. Where that is forbidden, it stays as it is."""
else:
    import resource

    def soft_limit() -> float:
        """The most descriptors that may be open now; infinite where the system sets no limit."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return math.inf if soft == resource.RLIM_INFINITY else soft

    def raise_soft_limit() -> None:
        """Raise the soft limit towards the hard one. Where that is forbidden, it stays as it is."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with suppress(OSError, ValueError):  # a sandbox may forbid the call
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
