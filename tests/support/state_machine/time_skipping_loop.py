"""An event loop on which nobody waits: where nothing happens, its clock jumps to what is due next.

In: coroutines. Out: what they return, minutes of patience in milliseconds. Only loop.time() jumps: sleeps and timeouts
do, time.time() and time.monotonic() do not. A thread that is still at work does not hold the jump back for longer than
GRACE_S; to the coroutines that looks like a slow disk.
"""

import asyncio
import selectors

GRACE_S = 0.002
"""How long nothing must have happened before the clock jumps."""


class _Selector(selectors.DefaultSelector):
    """Waits for at most GRACE_S of what it is asked to wait, and remembers the rest."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As its class does."""
        if timeout is None or timeout <= GRACE_S:
            return super().select(timeout)
        events = super().select(GRACE_S)
        if not events:
            self.skipped += timeout - GRACE_S
        return events


class HastyLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._hasty = _Selector()
        super().__init__(self._hasty)

    def time(self) -> float:
        """Seconds, those included that were skipped."""
        return super().time() + self._hasty.skipped
