"""`python -m bench.kills --kills 200 --seed 1`: kills the service at random points while people talk to it.

Runs the real service with the real adapters and a scripted engine in a separate process; the fakes of both platforms
keep running. Starts with an empty state directory every 25 kills. Prints progress and a table of the results. Exit
status 1 if a question was lost, answered twice or in the wrong place, if anyone was pinged, or if the database is
inconsistent.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.support.crash.killable_service import run_crash_service
from tests.support.crash.random_kills import storm

KILLS_PER_RUN = 25
AT_ONCE = (1, 1, 2, 3)
"""Number of kills before it waits for all pending answers."""


@dataclass
class Tally:
    """Sums over all state directories."""

    kills: int = 0
    starts: int = 0
    questions: int = 0
    answers: int = 0
    errors: int = 0
    lost: int = 0
    double: int = 0
    strays: int = 0
    faults: list[str] = field(default_factory=list)


async def one_run(root: Path, seed: int, kills: int, tally: Tally) -> None:
    """Kills a service `kills` times, then judges all answers."""
    chance, left = Random(seed), kills
    async with run_crash_service(root, "discord", "slack") as setup:
        while left:
            now = min(left, chance.choice(AT_ONCE))
            await storm(setup, chance, kills=now)
            left -= now
            if (await setup.settled()).faults:
                break
        verdict = await setup.ended()
        tally.kills += kills - left
        tally.starts += setup.lives
        tally.questions += len(setup.asked)
        tally.answers += verdict.answers
        tally.errors += verdict.errors
        tally.lost += len(verdict.lost)
        tally.double += len(verdict.double)
        tally.strays += len(verdict.strays)
        tally.faults += [f"run {seed}: {fault}" for fault in verdict.faults]
        if verdict.faults:
            print(setup.log(), file=sys.stderr)


async def run(kills: int, seed: int) -> Tally:
    """Runs all state directories in sequence."""
    tally, began = Tally(), time.monotonic()
    for number, first in enumerate(range(0, kills, KILLS_PER_RUN)):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            await one_run(Path(directory), seed * 1000 + number, min(KILLS_PER_RUN, kills - first), tally)
        seconds = time.monotonic() - began
        print(
            f"{tally.kills} kills, {tally.questions} questions, {len(tally.faults)} faults, {seconds:.0f} s", flush=True
        )
        if tally.faults:
            break
    print(table(tally, time.monotonic() - began))
    return tally


def table(tally: Tally, seconds: float) -> str:
    """The result as text."""
    rows = {
        "kills": tally.kills,
        "starts": tally.starts,
        "questions": tally.questions,
        "whole answers": tally.answers,
        "errors (ran at two kills)": tally.errors,
        "lost": tally.lost,
        "double": tally.double,
        "in the wrong place": tally.strays,
        "seconds": round(seconds),
    }
    return "\n".join(f"{name:28}{value:8}" for name, value in rows.items())


def main() -> None:
    """Runs the benchmark; the exit status tells whether it found faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    tally = asyncio.run(run(given.kills, given.seed))
    for fault in tally.faults:
        print(fault, file=sys.stderr)
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
