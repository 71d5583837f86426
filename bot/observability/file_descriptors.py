"""Read and raise this process's limit of open file descriptors."""

import math
import sys
from contextlib import suppress

ENOUGH = 8192
"""The target of `raise_soft_limit`. Not the hard limit, which may be 10**9: some programs close every descriptor."""

if sys.platform == "win32":

    def soft_limit() -> float:
        """The current limit; Windows has none, so infinite."""
        return math.inf

    def raise_soft_limit() -> None:
        """Do nothing."""
else:
    import resource

    def soft_limit() -> float:
        """The current limit; infinite if the system sets none."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return math.inf if soft == resource.RLIM_INFINITY else soft

    def raise_soft_limit() -> None:
        """Raise the soft limit to ENOUGH, or to the hard limit if that is lower. Ignores failures."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with suppress(OSError, ValueError):  # a sandbox may forbid the call
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
