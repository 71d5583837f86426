"""`python -m bench.capacity`: how many channels a number of GPUs serves, by a simulation fed with measured speeds.

A channel asks, reads the answer, and asks again after a random pause. Requests wait in one queue in order of arrival; a
conversation stays with its server unless that one is far busier (the rule of bot.engine.remote.server_pool), and a
server that has not kept a conversation reads its whole history again. A server's step takes the measured time of a
decode step with as many answers, and the measured time of the prompt tokens that it reads. For each number of GPUs the
largest number of channels is searched for which 95 % of the first tokens come within --first seconds.

The last column is what the messages ask of the database. Nothing is measured here: the speeds are those of
docs/measurements.md, on one GPU, by Inhouse's own engine.
"""

import argparse
import heapq
import sys
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import count, pairwise
from math import ceil
from random import Random

from bench.peering.results import percentile
from bot.engine.batching.batch import LARGEST_CHUNK
from bot.engine.remote.server_pool import ESCAPE

GPUS = (1, 4, 16)
TRANSACTIONS = 10
"""Of the database for one message, as `bench.database` counts them."""
WARM_UP = 0.2
"""Share of the simulated time that is left out at its beginning, when no server has kept anything."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """One server. decode: tokens/s of all answers together, by the number of answers. prefill: prompt tokens/s.

    kept: tokens that its KV cache holds.
    """

    decode: tuple[tuple[int, float], ...]
    prefill: float
    kept: int

    @property
    def running(self) -> int:
        """Most answers at once."""
        return self.decode[-1][0]

    def step_s(self, answers: int) -> float:
        """Seconds of a decode step of so many answers; linear between the measured numbers."""
        known = [(number, number / speed) for number, speed in self.decode]
        if answers <= known[0][0]:
            return known[0][1]
        low, high = next(pair for pair in pairwise(known) if answers <= pair[1][0])
        return low[1] + (high[1] - low[1]) * (answers - low[0]) / (high[0] - low[0])


PHI4_H100 = Speeds(((1, 17.0), (8, 131.2), (32, 252.1)), prefill=10_900, kept=200_000)
"""Phi-4 in bfloat16 on one H100 (docs/measurements.md): 864 tokens found in the cache save 79 ms; 200 kB a token."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a channel does. pause_s: mean seconds between an answer and the next question. history: tokens of a prompt
    that were in the one before; new: tokens that were not. answer: tokens of an answer, on average."""

    pause_s: float = 120.0
    history: int = 1500
    new: int = 100
    answer: int = 250


@dataclass(slots=True, eq=False)
class Request:
    channel: int
    asked_at: float
    unread: int = 0  # prompt tokens that are not computed yet
    tokens: int = 0  # of the answer
    left: int = 0  # of these, those that are not generated yet
    first_at: float | None = None


@dataclass(slots=True)
class SimulatedServer:
    running: list[Request] = field(default_factory=list)
    kept: OrderedDict[int, None] = field(default_factory=OrderedDict)  # channels, least recently served first
    stepping: bool = False


class Simulation:
    """`channels` channels on `gpus` servers, for `seconds` of simulated time."""

    def __init__(self, speeds: Speeds, traffic: Traffic, gpus: int, channels: int, seconds: float, seed: int) -> None:
        self._speeds, self._traffic, self._seconds, self._random = speeds, traffic, seconds, Random(seed)
        self.servers = [SimulatedServer() for _ in range(gpus)]
        self._home = [self._random.randrange(gpus) for _ in range(channels)]
        self._waiting: deque[Request] = deque()
        self._events: list[tuple[float, int, Request | SimulatedServer]] = []
        self._number = count()
        self.firsts: list[float] = []
        """Seconds to the first token of each answer, after the warm-up."""
        self.speeds: list[float] = []
        """Tokens/s of each answer."""
        self.moved = 0
        """Answers that did not run on their conversation's server."""
        for channel in range(channels):
            self._ask_later(channel, 0.0)

    def run(self) -> None:
        """Runs to the end."""
        while self._events[0][0] < self._seconds:
            now, _, what = heapq.heappop(self._events)
            if isinstance(what, Request):
                self._waiting.append(what)
            else:
                self._end_step(what, now)
            self._start_waiting(now)

    def _ask_later(self, channel: int, now: float) -> None:
        at = now + self._random.expovariate(1 / self._traffic.pause_s)
        heapq.heappush(self._events, (at, next(self._number), Request(channel, at)))

    def _start_waiting(self, now: float) -> None:
        while self._waiting and (server := self._server_for(self._waiting[0])) is not None:
            request = self._waiting.popleft()
            known = request.channel in server.kept
            request.unread = self._traffic.new + (0 if known else self._traffic.history)
            request.tokens = request.left = 1 + ceil(self._random.expovariate(1 / self._traffic.answer))
            server.kept[request.channel] = None
            server.kept.move_to_end(request.channel)
            while len(server.kept) > self._speeds.kept // (self._traffic.history + self._traffic.new):
                server.kept.popitem(last=False)
            server.running.append(request)
            if not server.stepping:
                self._begin_step(server, now)

    def _server_for(self, request: Request) -> SimulatedServer | None:
        """The conversation's server, or the idlest one if that one is far busier; None if none has a place."""
        home = self.servers[self._home[request.channel]]
        idlest = min(self.servers, key=lambda server: len(server.running))
        if len(home.running) - len(idlest.running) >= ESCAPE:
            self.moved += 1
            return idlest
        return home if len(home.running) < self._speeds.running else None

    def _begin_step(self, server: SimulatedServer, now: float) -> None:
        answers = sum(not request.unread for request in server.running)
        reading, budget = 0, LARGEST_CHUNK
        for request in server.running:
            part = min(request.unread, budget - reading)
            request.unread -= part
            reading += part
        took = (self._speeds.step_s(answers) if answers else 0.0) + reading / self._speeds.prefill
        took = max(took, self._speeds.step_s(1))  # launches bound a small step
        server.stepping = True
        heapq.heappush(self._events, (now + took, next(self._number), server))

    def _end_step(self, server: SimulatedServer, now: float) -> None:
        for request in [each for each in server.running if not each.unread]:
            late = request.asked_at > WARM_UP * self._seconds
            if request.first_at is None:
                request.first_at = now
                if late:
                    self.firsts.append(now - request.asked_at)
            request.left -= 1
            if not request.left:
                server.running.remove(request)
                if late:
                    self.speeds.append((request.tokens - 1) / (now - request.first_at))
                self._ask_later(request.channel, now)
        server.stepping = False
        if server.running:
            self._begin_step(server, now)


def served(speeds: Speeds, traffic: Traffic, gpus: int, channels: int, arguments: argparse.Namespace) -> Simulation:
    """A finished simulation."""
    simulation = Simulation(speeds, traffic, gpus, channels, arguments.minutes * 60, arguments.seed)
    simulation.run()
    return simulation


def most_channels(speeds: Speeds, traffic: Traffic, gpus: int, arguments: argparse.Namespace) -> int:
    """The largest number of channels, within 2 %, for which 95 % of the first tokens come in time."""

    def holds(channels: int) -> bool:
        firsts = served(speeds, traffic, gpus, channels, arguments).firsts
        return bool(firsts) and percentile(firsts, 0.95) <= arguments.first

    low, high = 0, 8 * gpus
    while holds(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def decode_speeds(text: str) -> tuple[tuple[int, float], ...]:
    """Parses 'ANSWERS:TOKENS_PER_SECOND,...'."""
    try:
        found = sorted((int(number), float(speed)) for number, speed in (part.split(":") for part in text.split(",")))
    except ValueError:
        found = []
    if not found or found[0][0] < 1 or min(speed for _, speed in found) <= 0 or len(dict(found)) < len(found):
        raise argparse.ArgumentTypeError(f"'{text}' is not like 1:17,8:131,32:252 (answers at once:tokens/s)")
    return tuple(found)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description="Channels that GPUs serve.")
    known, usual = PHI4_H100, Traffic()
    parser.add_argument("--decode", type=decode_speeds, default=known.decode, help="tokens/s by answers: 1:17,8:131")
    parser.add_argument("--prefill", type=float, default=known.prefill, help="prompt tokens/s")
    parser.add_argument("--kept", type=int, default=known.kept, help="tokens that the KV cache holds")
    parser.add_argument("--pause", type=float, default=usual.pause_s, help="seconds from an answer to a question")
    parser.add_argument("--history", type=int, default=usual.history, help="tokens of a prompt that were read before")
    parser.add_argument("--new", type=int, default=usual.new, help="tokens of a prompt that were not")
    parser.add_argument("--answer", type=int, default=usual.answer, help="tokens of an answer, on average")
    parser.add_argument("--first", type=float, default=2.0, help="seconds in which 95 %% of the first tokens must come")
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS)
    parser.add_argument("--minutes", type=float, default=20.0, help="simulated time")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    speeds = Speeds(given.decode, given.prefill, given.kept)
    traffic = Traffic(given.pause, given.history, given.new, given.answer)
    print(
        "| GPUs | channels | questions/minute | first token: median, p95 | tokens/s an answer | in all | moved "
        "| transactions/s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for gpus in given.gpus:
        channels = most_channels(speeds, traffic, gpus, given)
        found = served(speeds, traffic, gpus, channels, given)
        a_minute = len(found.firsts) / (given.minutes * (1 - WARM_UP))
        middle, slow = (percentile(found.firsts, share) for share in (0.5, 0.95))
        cells = (
            f"{gpus}",
            f"{channels:,}",
            f"{a_minute:,.0f}",
            f"{middle:.2f} s, {slow:.2f} s",
            f"{percentile(found.speeds, 0.5):.1f}",
            f"{a_minute * traffic.answer / 60:,.0f}",
            f"{found.moved / max(1, len(found.firsts)):.0%}",
            f"{a_minute * TRANSACTIONS / 60:.0f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
