"""Finds from the calls to the fake platforms when another host took a request over, and who wrote each answer."""

import itertools
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.hosting.host import Fault
from tests.support.crash.platforms import Asked, DiscordDriver, PlatformDriver, Said, SlackDriver
from tests.support.crash.verdict import signatures

LEASE_S = 15.0
"""For so long a host that cannot reach the database goes on."""


@dataclass(frozen=True, slots=True)
class Written:
    """A host wrote to an answer, at a Unix time."""

    at: float
    question: int
    host: str


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The requests of a failed host that another one wrote: seconds from the fault to the first and to the last."""

    kind: str
    requests: int
    first_s: float
    last_s: float


def written(drivers: Iterable[PlatformDriver]) -> dict[int, list[Written]]:
    """All writes to answers that show who writes, in order, by question."""
    found = defaultdict[int, list[Written]](list)
    for at, text in sorted(_calls(drivers)):
        for number, host in signatures(text):
            found[number].append(Written(at, number, host))
    return found


def taken_over(faults: Sequence[Fault], writes: Mapping[int, Sequence[Written]]) -> list[TakenOver]:
    """The takeover after each fault of a host that held a request."""
    return [found for fault in faults if (found := _taken_over(fault, writes)) is not None]


def writers(said: Iterable[Said]) -> Counter[str]:
    """The number of answers by the host that wrote them; an answer that two hosts wrote counts as 'several'."""
    hosts = defaultdict[int, set[str]](set)
    for each in said:
        for number, host in signatures(each.text):
            hosts[number].add(host)
    return Counter("several" if len(names) > 1 else min(names) for names in hosts.values())


def written_after_takeover(writes: Mapping[int, Sequence[Written]], faults: Sequence[Fault]) -> list[str]:
    """Answers to which a host wrote again after another one that did not fail meanwhile."""
    found: list[str] = []
    for number, all_ in writes.items():
        began: dict[str, float] = {}  # when each host's latest turn began
        for before, now in itertools.pairwise(all_):
            began.setdefault(before.host, before.at)
            if before.host == now.host:
                continue
            recently = began[before.host] - LEASE_S
            failed = any(fault.host == before.host and recently <= fault.at <= now.at for fault in faults)
            if now.host in began and not failed:
                found.append(f"question {number}: {now.host} wrote at {now.at:.3f} after {before.host}")
            began[now.host] = now.at
    return found


def deliveries(drivers: Iterable[PlatformDriver], asked: Asked, since: float) -> str:
    """When the platform delivered a question, to which socket or session, and when it was acknowledged."""
    found: list[str] = []
    for driver in drivers:
        if isinstance(driver, DiscordDriver):
            found += [
                f"at {frame.at - since:.1f} s to session {frame.session[:6]}"
                for frame in driver.server.frames
                if frame.event == "MESSAGE_CREATE" and f"'id': '{asked.message_id}'" in str(frame.data)
            ]
        elif isinstance(driver, SlackDriver):
            for envelope in driver.server.sockets.envelopes:
                if envelope.payload.get("event", {}).get("ts") == asked.message_id:
                    sent = [f"{at - since:.1f} s to socket {socket}" for at, _, socket in envelope.ids.values()]
                    acked = "acknowledged" if envelope.acked.is_set() else "never acknowledged"
                    found.append(f"{envelope.what} at {', '.join(sent)}, {acked}")
    return "; ".join(found) or "not delivered"


def quantiles(seconds: Sequence[float]) -> str:
    """Median, 99 % and worst."""
    ordered = sorted(seconds) or [0.0]
    late = ordered[int(len(ordered) * 0.99)]
    return f"{statistics.median(ordered):.1f} s, {late:.1f} s, {ordered[-1]:.1f} s"


def longest_silence(writes: Mapping[int, Sequence[Written]], begin: float, end: float) -> float:
    """The longest time in which nothing was written to any answer, seconds."""
    times = sorted(each.at for all_ in writes.values() for each in all_ if begin <= each.at <= end)
    return max(later - earlier for earlier, later in zip([begin, *times], [*times, end], strict=True))


def _taken_over(fault: Fault, writes: Mapping[int, Sequence[Written]]) -> TakenOver | None:
    times = [
        min(each.at for each in later) - fault.at
        for number in fault.held
        if (later := [each for each in writes.get(number, ()) if each.at >= fault.at and each.host != fault.host])
    ]
    return TakenOver(fault.kind, len(times), min(times), max(times)) if times else None


def _calls(drivers: Iterable[PlatformDriver]) -> Iterator[tuple[float, str]]:
    for driver in drivers:
        if isinstance(driver, DiscordDriver):
            yield from ((call.at, json.dumps(call.body)) for call in driver.server.calls if call.body)
        elif isinstance(driver, SlackDriver):
            yield from ((call.at, json.dumps(call.arguments)) for call in driver.server.calls)
