"""`python -m bench.failover --minutes 10`: two instances on one PostgreSQL database, of which the serving one fails.

People ask on the fakes of both platforms while the serving instance is killed, suspended or cut off from the database,
in turn; the other one takes over, and the failed one comes back as its standby. Prints the takeover times and the
verdict on all answers. Exit status 1 if a question was lost or answered twice, or if anyone was pinged.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from tests.support.builders.databases import CHOSEN
from tests.support.crash.killable_service import CrashSetup, run_crash_service
from tests.support.fakes.database_relay import DatabaseRelay, run_relay
from tests.support.postgresql import PostgresqlProcess

BETWEEN_S = (1.0, 8.0)
"""Seconds for which both are well, before the serving one fails."""
ASK_EVERY_S = 0.7
PLATFORMS = ("discord", "slack")
LENGTHS = (12, 12, 60, 200)


class Instance:
    """One instance, with a connection to the database of its own."""

    def __init__(self, setup: CrashSetup, relay: DatabaseRelay) -> None:
        self.setup, self.relay = setup, relay

    async def fail(self, how: str) -> None:
        """Kills the process, suspends it, or cuts it off from the database."""
        if how == "killed":
            await self.setup.kill()
        elif how == "suspended":
            self.setup.send(signal.SIGSTOP)
        else:
            await self.relay.cut()

    async def come_back(self, how: str) -> int | None:
        """Ends the fault, and starts the instance again as a standby; its exit status."""
        if how == "suspended":
            self.setup.send(signal.SIGCONT)
        elif how == "cut off":
            await self.relay.start()
        status = await self.setup.status()
        await self.setup.stand_by()
        return status


@asynccontextmanager
async def pair(root: Path, server: PostgresqlProcess) -> AsyncIterator[list[Instance]]:
    """Two instances, of which the first one serves."""
    CHOSEN.choose(server)
    for name in ("first", "second"):
        (root / name).mkdir()
    async with (
        run_relay(server.socket) as one,
        run_relay(server.socket) as two,
        run_crash_service(root / "first", *PLATFORMS, standby=True, queue_size=5000) as first,
    ):
        second = first.beside(root / "second")
        url = CHOSEN.url(first.state)
        assert url is not None
        for setup, relay in ((first, one), (second, two)):
            setup.use(database_url=relay.url(url).get_secret_value())
        await first.start()
        await second.stand_by()
        yield [Instance(first, one), Instance(second, two)]
        await second.close()


async def traffic(setup: CrashSetup, chance: Random) -> None:
    """Asks until it is cancelled."""
    while True:
        where = chance.randrange(12)
        await setup.ask(chance.choice(PLATFORMS), words=chance.choice(LENGTHS), who=chance.randrange(3), where=where)
        await asyncio.sleep(chance.uniform(0, 2 * ASK_EVERY_S))


async def run(seconds: float, seed: int) -> int:
    """Run the faults, print the table, and return the exit status."""
    chance, took, statuses = Random(seed), defaultdict[str, list[float]](list), defaultdict[str, set[int | None]](set)
    server = PostgresqlProcess(safe=True)
    server.start()
    try:
        with tempfile.TemporaryDirectory() as root:
            async with pair(Path(root), server) as (serving, standby):
                asking = asyncio.create_task(traffic(serving.setup, chance))
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    for how in ("killed", "suspended", "cut off"):
                        await asyncio.sleep(chance.uniform(*BETWEEN_S))
                        began = time.monotonic()
                        await serving.fail(how)
                        await standby.setup.serves()
                        took[how].append(time.monotonic() - began)
                        print(f"{how}: the other one serves after {took[how][-1]:.1f} s", flush=True)
                        statuses[how].add(await serving.come_back(how))
                        serving, standby = standby, serving
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                verdict = await serving.setup.settled()
                await standby.setup.stop()
                verdict = await serving.setup.ended()
    finally:
        CHOSEN.choose(None)
        server.close()
    print("| fault | times | takeover, median s | worst s | exit status |\n| --- | --- | --- | --- | --- |")
    for how, all_ in took.items():
        ended = ", ".join(sorted(map(str, statuses[how])))
        print(f"| {how} | {len(all_)} | {statistics.median(all_):.1f} | {max(all_):.1f} | {ended} |")
    print(f"{verdict.answers} answers, {verdict.errors} errors, {len(verdict.lost)} lost, {len(verdict.double)} double")
    for fault in verdict.faults:
        print(fault)
    return int(bool(verdict.faults))


def main() -> None:
    """Run for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(run(arguments.minutes * 60, arguments.seed)))


if __name__ == "__main__":
    main()
