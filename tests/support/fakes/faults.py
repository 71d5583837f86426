"""Faults of single calls to a fake platform, as a test scripts them: which call, how often, and what goes wrong.

In: a call and, if wanted, one channel. A call is Discord's method and route ("POST", "/channels/{channel_id}/messages")
or a method of Slack's Web API ("chat.postMessage"). Out: a `Fault` whose `hits` counts the calls that met it. `applied`
says whether the platform did what was asked before the answer went wrong; that is the difference between a post that is
lost and one whose answer is.
"""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What goes wrong."""

    ANSWER = "answer"  # another status
    REFUSAL = "refusal"  # Slack's ok: false
    DROP = "drop"  # the connection ends without an answer
    DELAY = "delay"  # everything is right but late
    FREEZE = "freeze"  # no answer until release()


@dataclass(eq=False)
class Fault:
    """One scripted fault; it meets `times` calls after letting `skip` of them pass."""

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
        """Let the frozen calls go on, and meet no further ones."""
        self.times = 0
        self.released.set()

    def meets(self, call: tuple[str, ...], channel: str | None) -> bool:
        """This call is one of its calls, and it is counted."""
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
    """All faults that are to come, in the order in which they were scripted."""

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
        """Answer with a status of one's own: 5xx as a platform's edge does (HTML), 4xx with Discord's error `code`."""
        return self._add(Fault(Kind.ANSWER, call, channel, times, skip, applied, status, code))

    def refuse(self, method: str, error: str, *, channel: str | None = None, times: int = 1, skip: int = 0) -> Fault:
        """Answer ok: false with Slack's error code, and do nothing."""
        return self._add(Fault(Kind.REFUSAL, (method,), channel, times, skip, False, error=error))

    def drop(self, *call: str, applied: bool, channel: str | None = None, times: int = 1, skip: int = 0) -> Fault:
        """End the connection instead of answering."""
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
        """Answer rightly but late; `applied`: what was asked is done at once."""
        return self._add(Fault(Kind.DELAY, call, channel, times, skip, applied, seconds=seconds))

    def freeze(
        self, *call: str, applied: bool = False, channel: str | None = None, times: int = 1, skip: int = 0
    ) -> Fault:
        """Do not answer until `release()` of the returned fault."""
        return self._add(Fault(Kind.FREEZE, call, channel, times, skip, applied))

    def find(self, *call: str, channel: str | None) -> Fault | None:
        """The fault that this call meets, if any."""
        return next((fault for fault in self._faults if fault.meets(call, channel)), None)

    def release_all(self) -> None:
        """Let every frozen call go on, at the end of a test."""
        for fault in self._faults:
            fault.release()

    def _add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault
