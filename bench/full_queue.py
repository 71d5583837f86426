"""`python -m bench.full_queue`: 2,000 messages from 200 people wait in a queue of 10,000.

The whole service with real storage runs on a platform without latency, with an engine that answers nothing until all
messages wait. Prints the lag of the event loop while they arrive, while they wait, and while they are answered. Checks
that the places are right: the requests start in the order of the places, and every message showed its own place.
"""

import argparse
import asyncio
import gc
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from bench.instant_platform import InstantPlatform
from bench.serving import Lag
from bot.generation.user_messages import waiting_line
from bot.models.catalog import Catalog
from bot.service.service import Service
from tests.support.builders.service import MACHINE, make_settings
from tests.support.fakes.scripted_engine import ScriptedEngine

QUEUE, PEOPLE = 10_000, 200
AT_ONCE = 4
"""Answers that the engine writes at once."""
GAP_S = 0.0025
"""Seconds between two messages: 400 messages a second."""
WAIT_S = 20.0
LIMIT_S = 0.020
"""The event loop's lag must be below this in 99 % of all cases, seconds."""


@dataclass
class Shown:
    """What each message shows, and the lag of each phase."""

    texts: dict[str, str] = field(default_factory=dict)
    lags: dict[str, list[float]] = field(default_factory=dict)


@asynccontextmanager
async def serving(root: Path, platform: InstantPlatform, engine: ScriptedEngine) -> AsyncIterator[Service]:
    """Runs the service until the block ends."""
    settings = make_settings(root, queue_size=QUEUE, per_user=100, max_tokens=8, deadline=3600)
    service = Service(settings, Catalog.of(settings), [platform], engine)
    with patch("bot.models.installed_models.probe", return_value=MACHINE):
        running = asyncio.create_task(service.run())
        try:
            yield service
        finally:
            service.stop()
            await running


async def measure(root: Path, messages: int) -> bool:
    """Runs all phases and prints the results; whether everything is as it must be."""
    answering = asyncio.Event()

    async def pace(point: str) -> None:
        if "/" in point:
            await answering.wait()

    platform, engine, lag, shown = InstantPlatform(), ScriptedEngine(pace, AT_ONCE), Lag(), Shown()
    async with serving(root, platform, engine) as service:
        await platform.connected()
        watching = asyncio.create_task(lag.watch())
        answers: list[asyncio.Task[object]] = []
        began = time.monotonic()
        for number in range(messages):
            answers.append(asyncio.create_task(ask(platform, number, shown)))
            await asyncio.sleep(max(0.0, began + number * GAP_S - time.monotonic()))
        assert service.web is not None
        state = service.web.live_state
        while len(state.queue.waiting()) < messages - AT_ONCE:  # noqa: ASYNC110 -- the queue has no event for it
            await asyncio.sleep(0.1)
        note(lag, shown, "they arrive")
        await asyncio.sleep(WAIT_S)
        note(lag, shown, "they wait")
        places = list(state.queue_status.places())
        questions = {request.request_id: request.message_id for request in state.queue.waiting()}
        wrong = [
            f"{questions[request_id]} shows {shown.texts[questions[request_id]]!r} and has place {place.number}"
            for request_id, place in places
            if number_of(shown.texts[questions[request_id]]) != number_of(waiting_line(place))
        ]
        before = len(engine.asked)
        began = time.monotonic()
        answering.set()
        await asyncio.gather(*answers)
        took = time.monotonic() - began
        note(lag, shown, "they are answered")
        watching.cancel()
    started = [request.request_id for _, request in engine.asked[before:]]
    expected = {request_id: place.number for request_id, place in places}
    moved = max(abs(expected[request_id] - number) for number, request_id in enumerate(started, 1))
    return report(shown, wrong, moved, messages, took)


async def ask(platform: InstantPlatform, number: int, shown: Shown) -> None:
    """Asks a question as one of the people, each in a channel; keeps what its message shows."""

    def watch(text: str) -> None:
        shown.texts[str(number)] = text

    await platform.ask(f"question {number}", f"channel-{number % PEOPLE}", watch, who=f"person-{number % PEOPLE}")


def number_of(line: str) -> int:
    """The place in a line like '17th in line, about 20 s'; 0 without one."""
    found = re.match(r"(\d+)", line)
    return int(found[1]) if found else 0


def note(lag: Lag, shown: Shown, phase: str) -> None:
    """Keeps the lag of a phase, and begins the next one."""
    shown.lags[phase], lag.seen = sorted(lag.seen), []


def report(shown: Shown, wrong: list[str], moved: int, messages: int, took: float) -> bool:
    """Prints the results; whether everything is as it must be."""
    print(f"{messages:,} messages of {PEOPLE} people in a queue of {QUEUE:,}; lag of the event loop, ms")
    print(f"  {'while':24}{'99 % below':>12}{'worst':>9}")
    quick = True
    for phase, seen in shown.lags.items():
        most = seen[int(len(seen) * 0.99)]
        quick = quick and most < LIMIT_S
        print(f"  {phase:24}{most * 1000:12.1f}{seen[-1] * 1000:9.0f}")
    print(f"  places shown: {'all right' if not wrong else f'{len(wrong)} wrong: {wrong[0]}'}")
    print(f"  most places between a start and its place before: {moved}; {AT_ONCE} start at once")
    print(f"  all were answered in {took:.1f} s")
    return quick and not wrong and moved < AT_ONCE


def main() -> None:
    """Runs the benchmark; exit status 1 if a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=2000)
    given = parser.parse_args()
    gc.freeze()  # as `inhouse run` does
    with tempfile.TemporaryDirectory() as directory:
        sys.exit(not asyncio.run(measure(Path(directory), given.messages)))


if __name__ == "__main__":
    main()
