"""`python -m bench.adapters --platform discord`: what an adapter, and all of ours behind it, adds to the engine's time.

A fake Discord with real buckets runs here; the service, with an engine that keeps a set pace, runs in a process of its
own. Questions are asked in eight channels at once, again and again. The table tells, in milliseconds, when the typing
indicator came, when the first words, our share of that (what the engine did not use), and when the final text was
there, after the last token. Then: how many calls were refused with 429, and the worst lag of the service's event loop.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.serving import CHANNELS, PREFILL_S
from tests.fakes.discord import Channel, FakeDiscord, Message, Person

ROUNDS = 25
POST = "/channels/{channel_id}/messages"


@dataclass
class Asked:
    """A question and what came of it, in Unix seconds."""

    text: str
    message: Message
    typing: float
    first: float
    final: float


async def ask(server: FakeDiscord, who: Person, where: Channel, text: str) -> Asked:
    """Ask, and wait for the whole answer."""
    typed, answered = len(where.typing), len(where.messages)
    message = await who.says(where, text, mention=True)
    await server.until(lambda: len(where.messages) > answered and "Regenerate" in labels(where.messages[-1]), 120)
    answer = where.messages[-1]
    return Asked(text, message, where.typing[typed], answer.created_at, answer.versions[-1].at)


def labels(message: Message) -> list[str]:
    """The buttons under a message."""
    return [str(button.get("label")) for button in message.buttons]


async def started(server: FakeDiscord, root: Path, questions: Sequence[str]) -> Process:
    """The service, connected."""
    words = (str(server.port), str(server.write_ca(root / "ca.pem")), str(root), server.token, *questions)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.serving", *words, stdin=PIPE, stdout=PIPE
    )
    await server.until(lambda: server.gateway.online and server.commands, 60)
    return process


def row(name: str, seconds: Sequence[float]) -> str:
    """One line of the table, in milliseconds."""
    ordered = sorted(seconds)
    shown = (median(ordered), ordered[int(len(ordered) * 0.9)], ordered[-1])
    return f"  {name:44}" + "".join(f"{each * 1000:9.0f}" for each in shown)


async def discord(root: Path) -> None:
    """Measure and print."""
    async with FakeDiscord() as server:
        people = [server.user(f"person-{number}") for number in range(CHANNELS)]
        channels = [server.text_channel(f"channel-{number}") for number in range(CHANNELS)]
        texts = [[f"question {turn} of {number}" for number in range(CHANNELS)] for turn in range(ROUNDS)]
        process = await started(server, root, [text for turn in texts for text in turn])
        asked: list[Asked] = []
        for turn in texts:
            at_once = zip(people, channels, turn, strict=True)
            asked += await asyncio.gather(*(ask(server, *each) for each in at_once))
        out, _ = await process.communicate(b"")  # the end of its stdin
        measured = json.loads(out)
        begun, ended = measured["begun"], measured["ended"]
        print(f"{len(asked)} answers in {CHANNELS} channels at once; ms" + f"{'median':>21}{'p90':>9}{'worst':>9}")
        print(row("typing indicator", [each.typing - each.message.created_at for each in asked]))
        print(row("first words", [each.first - each.message.created_at for each in asked]))
        share = [each.first - each.message.created_at - PREFILL_S for each in asked]
        print(row("  our share (without the engine's prefill)", share))
        print(row("first words after the engine's first token", [each.first - begun[each.text] for each in asked]))
        print(row("final text after the engine's last token", [each.final - ended[each.text] for each in asked]))
        print(f"429s: {server.rate_limited}; calls of Discord: {len(server.calls)}")
        often, worst = measured["lag"]
        print(f"lag of the event loop: 99.9 % below {often * 1000:.0f} ms, worst {worst * 1000:.0f} ms")


def main() -> None:
    """Measure a platform."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", choices=["discord"], default="discord")
    parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(discord(Path(directory)))


if __name__ == "__main__":
    main()
