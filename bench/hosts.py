"""`python -m bench.hosts --minutes 10`: several hosts serve on one PostgreSQL database, and fail in turn.

People ask in twenty channels of the fakes of both platforms. Every 20 s one host is killed, suspended for a minute or
cut off from the database; it is started again as systemd does. Prints the takeover times and the verdict on all
answers. Exit status 1 if a question was lost or answered twice or out of order, if anyone was pinged, or if a host
ended for another reason than its fault. `--standby`: one host serves, and the others stand by (INHOUSE_STANDBY).
`--namespaces`: each host is in a network namespace, with links to the platforms and to the database; needs root.
`--replica`: the database has a synchronous replica, which takes the place of the killed primary in the middle.
`--outage 30`: the database crashes in the middle, under all hosts, and is back after so many seconds.
"""

import argparse
import asyncio
import itertools
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench.hosting import report
from bench.hosting.host import LASTS_S, Fault, Host
from bench.hosting.links import PLATFORMS, add_bridges, open_links, server_address
from bench.hosting.replicated import ReplicatedPostgresql
from tests.support.builders.databases import CHOSEN
from tests.support.builders.storage_rows import rows
from tests.support.crash.killable_service import CrashSetup, run_crash_service
from tests.support.crash.verdict import Verdict
from tests.support.fakes.tls import LOOPBACK
from tests.support.network_namespaces import leave_for_new
from tests.support.postgresql import PostgresqlProcess

CHANNELS, PLACES = 10, {"discord": 12, "slack": 21}
"""Channels of each platform; places with their threads and direct messages."""
PAUSE_S = 16.0
"""Seconds between two bursts of questions in a channel."""
BURSTS = (1, 1, 2, 3)
APART_S = 0.5
"""Seconds between the questions of a burst."""
LENGTHS = (12, 12, 60, 200)
STEP_S = 0.1
"""Pause of the engine after each of 21 pieces, so that an answer takes 2 s."""
SETTLE_S = 60.0
PROMOTED_AFTER_S, AROUND_S = 3.0, 30.0
"""Seconds until a replica is promoted, and for which nothing else fails then."""
COLUMNS = (
    *("fault", "times", "the host held requests", "another one wrote one", "requests that others wrote"),
    *("fault to the first, median", "worst", "to the last, worst"),
)
ALIVE = "SELECT name FROM hosts WHERE expires_at > CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
HELD = "SELECT message_id FROM requests WHERE status IN ('waiting', 'running') AND host = '{}'"
STORED = "SELECT message_id, accepted_at FROM requests"
ENDED = "SELECT platform, workspace, channel, thread, message_id, finished_at FROM requests ORDER BY id"


@dataclass(frozen=True, slots=True)
class Arguments:
    """The command's arguments."""

    minutes: float
    hosts: int
    every: float
    seed: int
    standby: bool
    namespaces: bool
    replica: bool
    outage: float
    logs: Path | None


@dataclass(slots=True)
class Run:
    """The hosts, the traffic and the faults of one run. asked_at: Unix times by question. outage: from when to when."""

    arguments: Arguments
    hosts: list[Host]
    chance: Random
    asked_at: dict[int, float] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    failed_over: float = 0.0
    outage: tuple[float, float] | None = None
    began: float = field(default_factory=time.time)
    ended: float = 0.0

    @property
    def setup(self) -> CrashSetup:
        """The platforms and the questions, which all hosts share."""
        return self.hosts[0].setup

    async def up(self) -> None:
        """Waits until all hosts run, and one of them or all serve."""
        expected = 1 if self.arguments.standby else len(self.hosts)
        async with asyncio.timeout(60):
            while len(await self._alive()) < expected or not all(host.is_well for host in self.hosts):  # noqa: ASYNC110 -- polls other processes
                await asyncio.sleep(0.2)

    async def ask(self, platform: str, place: int) -> None:
        """Asks in one place until it is cancelled."""
        chance = Random(self.chance.random())
        while True:
            await asyncio.sleep(chance.uniform(0.5, 1.5) * PAUSE_S)
            for _ in range(chance.choice(BURSTS)):
                number, words = len(self.setup.asked), chance.choice(LENGTHS)
                self.asked_at[number] = time.time()
                await self.setup.ask(platform, words=words, who=chance.randrange(3), where=place)
                await asyncio.sleep(APART_S)

    async def fail(self, until: float) -> None:
        """Lets one host fail every so often, while another one is well."""
        ending, middle = set[asyncio.Task[None]](), (time.time() + until) / 2
        for kind in itertools.cycle(LASTS_S):
            if self.arguments.replica and not self.failed_over and time.time() >= middle:
                await asyncio.gather(*ending)
                await self._fail_over()
            if self.arguments.outage and not self.outage and time.time() >= middle:
                await asyncio.gather(*ending)
                await self._crash_database()
            await asyncio.sleep(min(self.arguments.every, until - time.time()))
            while not (able := await self._able()):  # noqa: ASYNC110 -- polls other processes
                await asyncio.sleep(1)
            if time.time() >= until:
                break
            failed = Counter(fault.host for fault in self.faults)
            host = min(able, key=lambda host: (failed[host.name], self.chance.random()))
            held = await self._held(host)
            self.faults.append(Fault(kind, host.name, time.time(), held))
            print(f"{time.time() - self.began:4.0f} s: {host.name} is {kind}, with {len(held)} requests", flush=True)
            ending.add(asyncio.create_task(host.suffer(kind, self.chance.uniform(*LASTS_S[kind]))))
        await asyncio.gather(*ending)

    async def _fail_over(self) -> None:
        """Lets the database's replica take the place of its primary while all hosts are well."""
        await self.up()
        server = CHOSEN.server
        assert isinstance(server, ReplicatedPostgresql)
        print(f"{time.time() - self.began:4.0f} s: the primary is killed, the replica is promoted", flush=True)
        self.failed_over = await server.fail_over(PROMOTED_AFTER_S)
        await asyncio.sleep(AROUND_S)

    async def _crash_database(self) -> None:
        """Lets the database crash and come back while all hosts are well."""
        await self.up()
        server, sessions = CHOSEN.server, self._sessions()
        assert server is not None
        print(f"{time.time() - self.began:4.0f} s: the database crashes", flush=True)
        began = time.time()
        await asyncio.to_thread(server.stop, signal.SIGQUIT)
        await asyncio.sleep(self.arguments.outage)
        await asyncio.to_thread(server.start)
        self.outage = (began, time.time())
        await asyncio.sleep(AROUND_S)
        opened = {name: number - sessions[name] for name, number in self._sessions().items()}
        print(f"{time.time() - self.began:4.0f} s: sessions opened meanwhile: {opened}", flush=True)

    def _sessions(self) -> dict[str, int]:
        return {name: driver.sessions() for name, driver in self.setup.drivers.items()}

    async def settled(self) -> Verdict:
        """Waits until each question is answered, or for SETTLE_S no more were, and all hosts are well; the verdict."""
        answers, end = 0, time.monotonic() + SETTLE_S
        while (verdict := self.setup.verdict()).faults and time.monotonic() < end:
            if verdict.answers > answers:
                answers, end = verdict.answers, time.monotonic() + SETTLE_S
            await asyncio.sleep(1)
        await self.up()
        return verdict

    async def _alive(self) -> list[Host]:
        """Hosts whose lease is valid."""
        names = {name for (name,) in await asyncio.to_thread(rows, self.setup.state, ALIVE)}
        return [host for host in self.hosts if host.instance in names]

    async def _able(self) -> list[Host]:
        """Hosts that serve, and may fail since another one is well."""
        alive = await self._alive()
        well = [host for host in (self.hosts if self.arguments.standby else alive) if host.is_well]
        return [host for host in alive if host in well and (len(well) > 1 or len(self.hosts) == 1)]

    async def _held(self, host: Host) -> list[int]:
        numbers = {each.message_id: each.number for each in self.setup.asked}
        found = await asyncio.to_thread(rows, self.setup.state, HELD.format(host.instance))
        return [numbers[str(message_id)] for (message_id,) in found if message_id in numbers]


@asynccontextmanager
async def started(root: Path, arguments: Arguments) -> AsyncIterator[Run]:
    """Starts the platforms, the database and the hosts."""
    async with AsyncExitStack() as stack:
        addresses = (server_address(1), server_address(2)) if arguments.namespaces else ("", "")
        server = (
            ReplicatedPostgresql(addresses) if arguments.replica else PostgresqlProcess(safe=True, address=addresses[0])
        )
        stack.callback(server.close)
        server.start()
        servers = [server, server.replica] if isinstance(server, ReplicatedPostgresql) and server.replica else [server]
        stack.callback(CHOSEN.choose, None)
        CHOSEN.choose(server)
        links = await stack.enter_async_context(open_links(servers, arguments.hosts, namespaces=arguments.namespaces))
        (root / "platforms").mkdir()
        address = PLATFORMS if arguments.namespaces else LOOPBACK
        platforms = await stack.enter_async_context(
            run_crash_service(
                root / "platforms", *PLACES, address=address, channels=CHANNELS, standby=arguments.standby
            )
        )
        hosts: list[Host] = []
        for number, link in enumerate(links, 1):
            name = f"host{number}"
            (root / name).mkdir()
            setup = platforms.beside(root / name, writer=name, step_s=STEP_S, namespace=link.namespace)
            url = CHOSEN.url(platforms.state)
            assert url is not None
            setup.use(database_url=link.url(url).get_secret_value())
            hosts.append(Host(name, setup, link, Random(arguments.seed + number)))
            stack.push_async_callback(hosts[-1].close)
            hosts[-1].start()
        run = Run(arguments, hosts, Random(arguments.seed))
        await run.up()
        yield run


async def run(arguments: Arguments) -> int:
    """Runs traffic and faults, prints the tables, and returns the exit status."""
    main = asyncio.current_task()
    assert main is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        async with started(Path(root), arguments) as this:
            asking = [
                asyncio.create_task(this.ask(platform, place))
                for platform in PLACES
                for place in _spread(PLACES[platform])
            ]
            await this.fail(time.time() + arguments.minutes * 60)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            this.ended = time.time()
            await this.settled()
            ordered = out_of_order(this)
            for host in this.hosts[1:]:
                await host.stop()
            verdict = await this.setup.ended()
            if arguments.logs is not None:
                for host in this.hosts:
                    shutil.copy(host.setup.root / "log", arguments.logs / f"{host.name}.log")
            return tell(this, verdict, ordered)


def _spread(places: int) -> Sequence[int]:
    """CHANNELS of all places, the first ones included."""
    return [number * places // CHANNELS for number in range(CHANNELS)]


def out_of_order(this: Run) -> list[str]:
    """Conversations in which a request ended before one that was accepted before it."""
    ends = defaultdict[tuple[object, ...], list[tuple[object, float]]](list)
    for *key, message_id, finished_at in rows(this.setup.state, ENDED):
        ends[tuple(key)].append((message_id, float(str(finished_at or 0))))
    return [
        f"out of order in {key}: {messages}"
        for key, messages in ends.items()
        if any(later < earlier for (_, earlier), (_, later) in itertools.pairwise(messages))
    ]


def tell(this: Run, verdict: Verdict, disorder: list[str]) -> int:
    """Prints the tables; returns the exit status."""
    drivers = this.setup.drivers.values()
    writes = report.written(drivers)
    takeovers = report.taken_over(this.faults, writes)
    statuses = Counter[tuple[str, int | None]]()
    for host in this.hosts:
        statuses += host.statuses
    print(f"\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for kind in LASTS_S:
        faults = [fault for fault in this.faults if fault.kind == kind]
        of = [each for each in takeovers if each.kind == kind]
        firsts, lasts = [each.first_s for each in of] or [0.0], [each.last_s for each in of] or [0.0]
        counts = (len(faults), sum(bool(fault.held) for fault in faults), len(of), sum(each.requests for each in of))
        seconds = (f"{value:.1f} s" for value in (statistics.median(firsts), max(firsts), max(lasts)))
        print(f"| {kind} | {' | '.join(map(str, counts))} | {' | '.join(seconds)} |")
    firsts = [all_[0].at - this.asked_at[number] for number, all_ in writes.items() if all_]
    by = report.writers(said for driver in drivers for said in driver.said())
    for name, value in {
        "questions": len(this.setup.asked),
        "answers": verdict.answers,
        "errors": verdict.errors,
        "lost": len(verdict.lost),
        "double": len(verdict.double),
        "in the wrong place": len(verdict.strays),
        "conversations out of order": len(disorder),
        "pings": sum(bool(driver.pings()) for driver in drivers),
        "answers by host": ", ".join(f"{host} {count}" for host, count in sorted(by.items())),
        "question to first words, median, 99 % and worst": report.quantiles(firsts),
        "longest time without a word": f"{report.longest_silence(writes, this.began, this.ended):.1f} s",
        "exits": ", ".join(f"{fault or 'no fault'}: {status} {count}x" for (fault, status), count in statuses.items()),
    }.items():
        print(f"{name}: {value}")
    if this.failed_over:
        begun = {number: all_[:1] for number, all_ in writes.items()}
        silent = report.longest_silence(begun, this.failed_over, this.failed_over + AROUND_S)
        print(f"after the primary was killed, no answer began for {silent:.1f} s")
    if this.outage:
        gone, back = this.outage
        numbers = {each.message_id: each.number for each in this.setup.asked}
        stored = {numbers[str(name)]: float(str(at)) for name, at in rows(this.setup.state, STORED) if name in numbers}
        asked_meanwhile = [number for number, at in this.asked_at.items() if gone < at < back and number in stored]
        waits = [stored[number] - back for number in asked_meanwhile]
        print(f"without the database for {back - gone:.0f} s, in which {len(waits)} questions were asked; they were")
        print(f"stored after it was back, median, 99 % and worst: {report.quantiles(waits)}")
    slow = sorted(writes, key=lambda number: this.asked_at[number] - writes[number][0].at)[:3]
    for number in slow:
        print(f"question {number} waited for {writes[number][0].at - this.asked_at[number]:.1f} s for its first words")
    for asked in this.setup.asked:
        if asked.number in slow or asked.number not in writes:
            history = report.deliveries(drivers, asked, this.began)
            print(f"question {asked.number}, asked at {this.asked_at[asked.number] - this.began:.1f} s: {history}")
    late = report.written_after_takeover(writes, this.faults)
    broken = [*verdict.faults, *disorder, *late, *(line for host in this.hosts for line in host.broken)]
    for each in broken:
        print(each)
    return int(bool(broken))


def main() -> None:
    """Runs for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--every", type=float, default=20, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--standby", action="store_true")
    parser.add_argument("--namespaces", action="store_true")
    parser.add_argument("--replica", action="store_true")
    parser.add_argument("--outage", type=float, default=0.0, help="seconds")
    parser.add_argument("--logs", type=Path, help="a directory for the hosts' logs")
    arguments = Arguments(**vars(parser.parse_args()))
    if arguments.namespaces:
        leave_for_new()
        add_bridges(servers=2)
    sys.exit(asyncio.run(run(arguments)))


if __name__ == "__main__":
    main()
