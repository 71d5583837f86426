"""`python -m bench.soak [--minutes 120]`: runs a team of twenty channels on both platforms for hours, with faults.

The service runs in a separate process (`bench.soaking`), with both adapters, storage and a scripted engine of fixed
speed that dies every few minutes. Ten Discord and ten Slack channels ask, wait, stop and delete; `bench.random_faults`
injects a fault every few seconds. Prints a line per minute, and a table for docs/measurements.md at the end. Exit
status 1 if a question has no answer, two, or another's, or if memory grew.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.random_faults import RandomFaults
from bench.soaking import SoakParameters
from bench.team import DiscordRoom, Ledger, Room, SlackRoom, life
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.slack_server import FakeSlack

ROOMS = 10
PAUSES_S = {"discord": 2.0, "slack": 30.0}
"""Seconds from an answer to the next question. Slack allows 20 streams and 50 edits per minute. On Discord a channel
is one conversation, whose history should reach its full length before memory is compared."""
FAULTS_S, DIES_S = 10.0, 200.0
WARM_S = 900.0
"""Memory is compared with its size after this time."""
MOST_GROWTH = 0.05
SETTLE_S = 90.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The service's process at one moment; lags are since the last sample."""

    at_s: float
    resident_mb: float
    descriptors: int
    lag_s: float
    lag_999_s: float


async def collect(process: Process, samples: list[Sample], ledger: Ledger, faults: RandomFaults) -> None:
    """Collects samples from the service until it ends; prints a line per minute."""
    assert process.stdout is not None
    async for line in process.stdout:
        sample = Sample(**json.loads(line))
        samples.append(sample)
        if len(samples) % 4 == 0:
            print(
                f"{sample.at_s / 60:5.0f} min: {len(ledger.asked)} questions, {sum(faults.done.values())} faults, "
                f"{sample.resident_mb:.1f} MB, worst lag {max(each.lag_s for each in samples[-4:]) * 1000:.0f} ms",
                flush=True,
            )


async def soak(root: Path, minutes: float, seed: int) -> bool:
    """Runs the soak test and prints the table; whether all checks passed."""
    async with FakeDiscord() as discord, FakeSlack() as slack:
        faults, ledger, samples = RandomFaults(discord, slack, seed, FAULTS_S), Ledger(), list[Sample]()
        rooms: list[Room] = []
        for number in range(ROOMS):
            name = f"room-{number}"
            channel, person = discord.text_channel(name), discord.user(f"dis-{number}")
            rooms.append(DiscordRoom(f"discord-{number}", channel, person, faults, PAUSES_S["discord"]))
            there, who = slack.channel(name), slack.user(f"sla-{number}")
            rooms.append(SlackRoom(f"slack-{number}", there, who, faults, PAUSES_S["slack"]))
        tokens = {"discord_bot_token": discord.token} | slack.settings()
        parameters = SoakParameters(str(root), tokens, discord.port, str(discord.write_ca(root / "ca.pem")), DIES_S)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.soaking", json.dumps(asdict(parameters)), stdin=PIPE, stdout=PIPE
        )
        collecting = asyncio.create_task(collect(process, samples, ledger, faults))
        await discord.until(lambda: discord.gateway.online and discord.commands, 60)
        await slack.until(lambda: slack.sockets.online, 60)
        injecting = asyncio.create_task(faults.keep_up())
        until = time.monotonic() + minutes * 60
        lives = [life(room, ledger, seed + number, until) for number, room in enumerate(rooms)]
        await asyncio.gather(*lives)
        injecting.cancel()
        await asyncio.gather(injecting, return_exceptions=True)
        await asyncio.sleep(SETTLE_S)  # surplus answers may come late
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await collecting
        pinged = bool(discord.pings) or bool(slack.pings)
        limited = discord.rate_limited, slack.rate_limited
        return tell(ledger, faults, samples, limited, pinged, process.returncode or 0)


def tell(
    ledger: Ledger, faults: RandomFaults, samples: Sequence[Sample], limited: tuple[int, int], pinged: bool, status: int
) -> bool:
    """Prints the table; whether all checks passed."""
    lost, double, crossed = ledger.lost(), ledger.double(), ledger.crossed()
    warm = next((each for each in samples if each.at_s >= WARM_S), samples[0])
    late = sorted(each.resident_mb for each in samples[-20:])
    growth = late[len(late) // 2] / warm.resident_mb - 1
    seconds = sorted(each.seconds for each in ledger.due)
    rows = {
        "minutes": f"{samples[-1].at_s / 60:.0f}",
        "questions": f"{len(ledger.asked)}, of which {len(ledger.asked) - len(ledger.due)} were taken back",
        "answers": f"{len(ledger.due) - len(lost)}, of which {sum(each.stopped for each in ledger.due)} were stopped",
        "lost": str(len(lost)),
        "double": str(len(double)),
        "another's answer": str(len(crossed)),
        "pings": "some" if pinged else "0",
        "faults on the wire": str(sum(faults.done.values())),
        "answers of 429": f"Discord {limited[0]}, Slack {limited[1]}",
        "question to finished answer, median and 99 %": (
            f"{seconds[len(seconds) // 2]:.1f} s, {seconds[int(len(seconds) * 0.99)]:.1f} s"
        ),
        "resident memory of the service": f"{warm.resident_mb:.1f} MB, then {growth:+.1%}",
        "open descriptors at the end": str(samples[-1].descriptors),
        "lag of the event loop, 99.9 % and worst": (
            f"{sorted(each.lag_999_s for each in samples)[len(samples) // 2] * 1000:.0f} ms, "
            f"{max(each.lag_s for each in samples) * 1000:.0f} ms"
        ),
        "exit status": str(status),
    }
    print("\n".join(["", "| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]))
    print("\n".join(["", *(f"{count:5} {name}" for name, count in sorted(faults.done.items()))]))
    for name, wrong in (("lost", lost), ("double", double), ("another's", crossed)):
        for each in wrong:
            print(f"{name}: {each.canary}: {each.question.shown()}")
    return not (lost or double or crossed or pinged or status or growth > MOST_GROWTH)


def main() -> None:
    """Runs the soak test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        well = asyncio.run(soak(Path(directory), given.minutes, given.seed))
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
