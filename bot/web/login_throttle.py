"""Throttle guesses of the status page's token, per network and globally.

A network has BURST free wrong tokens, refilled at one per REFILL_S. Beyond that, every token, right or wrong, waits
DELAY_S before it is compared. A right token is never refused, so users in the attacker's network can still log in. A
waiting guess holds a connection, so the connection limit bounds all guesses to 80 per second.
"""

import asyncio
import logging
from asyncio import sleep
from collections import OrderedDict
from dataclasses import dataclass

BURST, REFILL_S = 10, 10.0
ALL_BURST, ALL_REFILL_S = 100, 1.0
DELAY_S = 0.8
"""Must be less than `connections.GRACE_S`, after which a connection may be closed under load."""
MOST_NETWORKS = 1024
"""Capacity of the per-network table; evicts the network with the oldest wrong guess."""
QUIET_S = 60.0
"""Minimum time between two warnings, seconds."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Allowance:
    """A token bucket of wrong guesses."""

    burst: float
    refill_s: float
    left: float
    at: float

    def spent(self, now: float) -> bool:
        """Refill the bucket and return whether it is empty."""
        self.left = min(self.burst, self.left + (now - self.at) / self.refill_s)
        self.at = now
        return self.left < 1


class LoginThrottle:
    """The token buckets of wrong guesses. For use from one event loop."""

    def __init__(self) -> None:
        self._of_all: _Allowance | None = None
        self._networks: OrderedDict[str, _Allowance] = OrderedDict()
        self._warned_at = float("-inf")

    async def wait(self, network: str) -> None:
        """Delay the comparison of a token if the network's or the global bucket is empty."""
        if any(allowance.spent(_now()) for allowance in self._allowances(network)):
            await sleep(DELAY_S)

    def wrong(self, network: str) -> None:
        """Count a wrong token; log a warning when the network's bucket becomes empty."""
        now = _now()
        own = self._networks.setdefault(network, _Allowance(BURST, REFILL_S, BURST, now))
        self._networks.move_to_end(network)
        while len(self._networks) > MOST_NETWORKS:
            self._networks.popitem(last=False)
        self._of_all = self._of_all or _Allowance(ALL_BURST, ALL_REFILL_S, ALL_BURST, now)
        for allowance in (own, self._of_all):
            allowance.left = max(0.0, allowance.left - 1)
        if own.left < 1 and now >= self._warned_at + QUIET_S:
            self._warned_at = now
            log.warning("%d wrong tokens for the status page came from %s; further ones are delayed", BURST, network)

    def _allowances(self, network: str) -> list[_Allowance]:
        return [each for each in (self._networks.get(network), self._of_all) if each is not None]


def _now() -> float:
    return asyncio.get_running_loop().time()
