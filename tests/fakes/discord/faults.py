"""Faults of single requests, as a test scripts them: which call, how often, and what goes wrong.

In: method, route ("/channels/{channel_id}/messages") and, if wanted, one channel. Out: a `Fault` whose `hits` counts
the calls that met it. `applied` says whether Discord did what was asked before the answer went wrong; that is the
difference between a post that is lost and one whose answer is.
"""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What goes wrong."""

    ANSWER = "answer"  # another status
    DROP = "drop"  # the connection ends without an answer
    DELAY = "delay"  # everything is right but late
    FREEZE = "freeze"  # no answer until release()


@dataclass(eq=False)
class Fault:
    """One scripted fault; it meets `times` calls after letting `skip` of them pass."""

    kind: Kind
    method: str
    route: str
    channel: str | None
    times: int
    skip: int
    applied: bool
    status: int = 0
    code: int = 0
    seconds: float = 0.0
    hits: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let the frozen calls go on, and meet no further ones."""
        self.times = 0
        self.released.set()

    def meets(self, method: str, route: str, channel: str | None) -> bool:
        """This call is one of its calls, and it is counted."""
        if (method, route) != (self.method, self.route) or self.channel not in (None, channel):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.hits >= self.times:
            return False
        self.hits += 1
        return True


class Faults:
    """All faults that are to come, in the order in which they were scripted."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def answer(
        self,
        method: str,
        route: str,
        status: int,
        *,
        code: int = 0,
        applied: bool = False,
        channel: str | None = None,
        times: int = 1,
        skip: int = 0,
    ) -> Fault:
        """Answer with a status of one's own: 5xx as Discord's edge does (HTML), 4xx with Discord's error `code`."""
        return self._add(Fault(Kind.ANSWER, method, route, channel, times, skip, applied, status, code))

    def drop(
        self,
        method: str,
        route: str,
        *,
        applied: bool,
        channel: str | None = None,
        times: int = 1,
        skip: int = 0,
    ) -> Fault:
        """End the connection instead of answering."""
        return self._add(Fault(Kind.DROP, method, route, channel, times, skip, applied))

    def delay(
        self,
        method: str,
        route: str,
        seconds: float,
        *,
        applied: bool = False,
        channel: str | None = None,
        times: int = 1,
        skip: int = 0,
    ) -> Fault:
        """Answer rightly but late; `applied`: what was asked is done at once."""
        return self._add(Fault(Kind.DELAY, method, route, channel, times, skip, applied, seconds=seconds))

    def freeze(
        self,
        method: str,
        route: str,
        *,
        applied: bool = False,
        channel: str | None = None,
        times: int = 1,
        skip: int = 0,
    ) -> Fault:
        """Do not answer until `release()` of the returned fault."""
        return self._add(Fault(Kind.FREEZE, method, route, channel, times, skip, applied))

    def find(self, method: str, route: str, channel: str | None) -> Fault | None:
        """The fault that this call meets, if any."""
        return next((fault for fault in self._faults if fault.meets(method, route, channel)), None)

    def release_all(self) -> None:
        """Let every frozen call go on, at the end of a test."""
        for fault in self._faults:
            fault.release()

    def _add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault
