"""Scripts faults of single calls to a fake platform: which calls, how often, and what happens.

A call is Discord's method and route ("POST", "/channels/{channel_id}/messages") or a method of Slack's Web API
("chat.postMessage"), optionally in one channel. `Fault.hits` counts the affected calls. `applied` says whether the
platform executed the call before the fault: either the post is lost, or only its response.
"""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What happens to the call."""

    ANSWER = "answer"  # another status
    REFUSAL = "refusal"  # Slack's ok: false
    DROP = "drop"  # the connection ends without a response
    DELAY = "delay"  # a correct but late response
    FREEZE = "freeze"  # no response until release()


@dataclass(eq=False)
class Fault:
    """One scripted fault; it skips `skip` calls and affects the next `times`."""

    kind: Kind
    call: tuple[str, ...]
    channel: str | None
    times: int
    skip: int
    applied: bool
    status: int = 0
    code: int = 0
    error: str = ""
    seconds: float = 0.0
    hits: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Lets frozen calls continue, and affects no further ones."""
        self.times = 0
        self.released.set()

    def meets(self, call: tuple[str, ...], channel: str | None) -> bool:
        """Whether the fault affects this call; counts it if so."""
        if call != self.call or self.channel not in (None, channel):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.hits >= self.times:
            return False
        self.hits += 1
        return True


class Faults:
    """All scripted faults, in order."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def answer(
        self,
        *call: str,
        status: int,
        code: int = 0,
        applied: bool = False,
        channel: str | None = None,
        times: int = 1,
        skip: int = 0,
    ) -> Fault:
        """Responds with a status: 5xx in HTML like a platform's edge server, 4xx with Discord's error `code`."""
        return self._add(Fault(Kind.ANSWER, call, channel, times, skip, applied, status, code))

    def refuse(self, method: str, error: str, *, channel: str | None = None, times: int = 1, skip: int = 0) -> Fault:
        """Responds ok: false with Slack's error code, without executing the call."""
        return self._add(Fault(Kind.REFUSAL, (method,), channel, times, skip, False, error=error))

    def drop(self, *call: str, applied: bool, channel: str | None = None, times: int = 1, skip: int = 0) -> Fault:
        """Ends the connection instead of responding."""
        return self._add(Fault(Kind.DROP, call, channel, times, skip, applied))

    def delay(
        self,
        *call: str,
        seconds: float,
        applied: bool = False,
        channel: str | None = None,
        times: int = 1,
        skip: int = 0,
    ) -> Fault:
        """Responds correctly but late; `applied`: executes the call before the delay."""
        return self._add(Fault(Kind.DELAY, call, channel, times, skip, applied, seconds=seconds))

    def freeze(
        self, *call: str, applied: bool = False, channel: str | None = None, times: int = 1, skip: int = 0
    ) -> Fault:
        """Does not respond until `release()` of the returned fault."""
        return self._add(Fault(Kind.FREEZE, call, channel, times, skip, applied))

    def find(self, *call: str, channel: str | None) -> Fault | None:
        """The fault that affects this call, if any."""
        return next((fault for fault in self._faults if fault.meets(call, channel)), None)

    def release_all(self) -> None:
        """Releases all frozen calls, at the end of a test."""
        for fault in self._faults:
            fault.release()

    def _add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault
