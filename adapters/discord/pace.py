"""When Discord may be connected to again: sessions are few, and a bot that spends them all loses its token.

In: what was started and what failed. Out: seconds to wait. It promises that a day of restarts, resumes that fail and
malformed events costs a fraction of the 1,000 sessions that Discord grants in a day.
"""

import random
import time
from collections import deque
from collections.abc import Callable

HOUR_S = 3600.0
FREE_SESSIONS = 4
"""So many sessions an hour may follow each other quickly."""
MAX_WAIT_S = 600.0
RESERVED_SESSIONS = 20
"""Sessions of a day that are never used, so that a person can still start the bot by hand."""


class ReconnectBackoff:
    """The waits before sessions. `gap_s` is the least time between two of them, which Discord asks for."""

    def __init__(self, gap_s: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap_s, self._clock = gap_s, clock
        self._started: deque[float] = deque()
        self._failures = 0

    def seconds_to_session(self) -> float:
        """Seconds until another session may be started."""
        now = self._clock()
        while self._started and self._started[0] < now - HOUR_S:
            self._started.popleft()
        if not self._started:
            return 0.0
        doublings = min(20, max(0, len(self._started) - FREE_SESSIONS))
        return max(0.0, self._started[-1] + min(MAX_WAIT_S, self._gap_s * float(2**doublings)) - now)

    def record_session(self) -> None:
        """A session is being started."""
        self._started.append(self._clock())

    def next_retry(self) -> float:
        """A connection failed: seconds until the next try, with jitter, so that many bots do not come back at once."""
        self._failures += 1
        longest = min(MAX_WAIT_S, self._gap_s * float(2 ** min(20, self._failures - 1)))
        return random.uniform(longest / 5, longest)

    def reset(self) -> None:
        """A session stands."""
        self._failures = 0
