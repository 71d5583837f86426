"""An event loop that skips idle time: when nothing is ready, its clock jumps to the next timer.

Minutes of timeouts pass in milliseconds. Only loop.time() jumps (sleeps and timeouts), not time.time() or
time.monotonic(). Working threads delay a jump by at most GRACE_S; to coroutines they look like a slow disk.
"""

import asyncio
import selectors

GRACE_S = 0.002
"""Seconds without any event before the clock jumps."""


class _Selector(selectors.DefaultSelector):
    """A selector that waits at most GRACE_S and counts the skipped rest."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Waits like its base class, for at most GRACE_S."""
        if timeout is None or timeout <= GRACE_S:
            return super().select(timeout)
        events = super().select(GRACE_S)
        if not events:
            self.skipped += timeout - GRACE_S
        return events


class TimeSkippingLoop(asyncio.SelectorEventLoop):
    """The time-skipping event loop."""

    def __init__(self) -> None:
        self._hasty = _Selector()
        super().__init__(self._hasty)

    def time(self) -> float:
        """Seconds, with the skipped time."""
        return super().time() + self._hasty.skipped
