"""The backoff before gateway sessions, so that no chain of failures uses up a day's 1,000 sessions.

Discord resets the token of a bot that uses up all of them. Not stamina: the backoff depends on the sessions of the last
hour, across connections that succeeded.
"""

import random
import time
from collections import deque
from collections.abc import Callable

HOUR_S = 3600.0
FREE_SESSIONS = 4
"""Sessions an hour without backoff."""
MAX_WAIT_S = 600.0
RESERVED_SESSIONS = 20
"""Sessions of a day that are never used, so that a person can still start the bot."""


class ReconnectBackoff:
    """The waits before sessions. `gap_s`: the least time between two, as Discord requires. `clock`: seconds."""

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
        """Count a session that is being started."""
        self._started.append(self._clock())

    def next_retry(self) -> float:
        """Count a failed connection; seconds until the next try, with jitter."""
        self._failures += 1
        longest = min(MAX_WAIT_S, self._gap_s * float(2 ** min(20, self._failures - 1)))
        return random.uniform(longest / 5, longest)

    def reset(self) -> None:
        """A session was established: reset the backoff."""
        self._failures = 0
