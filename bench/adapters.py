"""`python -m bench.adapters --platform discord|slack`: measures the time that the adapter and the service add.

A fake platform with realistic limits runs here; the service, with an engine of fixed speed, runs in a separate process.
Questions come in eight channels at once, in several rounds. The table shows, in milliseconds: the typing indicator
(Slack: the status), the first words, our share of that (without the engine's time), and the final text after the last
token. Then the number of 429s and the worst lag of the service's event loop. On Slack also how long 1,000 envelopes
waited for their acknowledgement, while a real model loads and eight answers are streamed.

With `--burst`: 320 events in one second (on Slack a mention is two), from 60 people in as many channels, while 16
answers are streamed; prints the time from each event to its storage and, on Slack, to its acknowledgement. `--model`
selects a scripted engine or the real SmolLM2. Without `--model` and `--platform`, measures both on both platforms.
"""

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.serving import CHANNELS, PREFILL_S, ServingParameters
from bot.config.settings import load_settings
from bot.models.catalog import Catalog
from bot.models.pull import pull
from tests.support.builders.storage_rows import rows
from tests.support.fakes.discord import Channel, FakeDiscord, Message, Person
from tests.support.fakes.slack.sockets import ACK_S
from tests.support.fakes.slack_server import Channel as SlackChannel
from tests.support.fakes.slack_server import FakeSlack
from tests.support.fakes.slack_server import Person as SlackPerson

ROUNDS = 25
SLACK_ROUNDS, SLACK_PAUSE_S = 6, 25.0
"""Slack allows twenty streams per minute, so rounds pause."""
ENVELOPES, ENVELOPE_GAP_S = 1000, 0.02
EVENTS, ASKING, STREAMING = 320, 60, 16
"""The burst: events in one second, people (each in a channel), and answers that are streamed at the same time."""
LONG = 1000
"""Words, or tokens, of an answer that is still streaming at the end of the burst."""
PATIENCE_S = 150
POST = "/channels/{channel_id}/messages"


@dataclass
class Asked:
    """A question and the times of its answer, in Unix seconds."""

    text: str
    at: float
    typing: float
    first: float
    final: float


async def ask_on_discord(server: FakeDiscord, who: Person, where: Channel, text: str) -> Asked:
    """Asks, and waits for the whole answer."""
    typed, answered = len(where.typing), len(where.messages)
    message = await who.says(where, text, mention=True)
    await server.until(lambda: len(where.messages) > answered and "Regenerate" in labels(where.messages[-1]), 120)
    answer = where.messages[-1]
    return Asked(text, message.created_at, where.typing[typed], answer.created_at, answer.versions[-1].at)


def labels(message: Message) -> list[str]:
    """The labels of a message's buttons."""
    return [str(button.get("label")) for button in message.buttons]


async def ask_on_slack(server: FakeSlack, who: SlackPerson, where: SlackChannel, text: str) -> Asked:
    """Asks, and waits for the whole answer."""
    message = await who.says(where, text, mention=True)
    thread = message.ts

    def done() -> bool:
        return any("Regenerate" in each.labels for each in where.messages if each.thread_ts == thread)

    await server.until(done, 120)
    answer = next(each for each in where.messages if each.thread_ts == thread)
    status = next((each.at for each in server.statuses if each.thread_ts == thread), float(answer.ts))
    return Asked(text, float(thread), status, answer.versions[0].at, answer.versions[-1].at)


async def started(parameters: ServingParameters) -> Process:
    """Starts the service's process."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.serving", json.dumps(asdict(parameters)), stdin=PIPE, stdout=PIPE
    )


def texts_of(rounds: int) -> list[list[str]]:
    """The questions, round by round."""
    return [[f"question {turn} of {number}" for number in range(CHANNELS)] for turn in range(rounds)]


def table(asked: Sequence[Asked], begun: Mapping[str, float], ended: Mapping[str, float]) -> None:
    """Prints the table."""
    print(f"{len(asked)} answers in {CHANNELS} channels at once; ms" + f"{'median':>21}{'p90':>9}{'worst':>9}")
    print(row("typing indicator", [each.typing - each.at for each in asked]))
    print(row("first words", [each.first - each.at for each in asked]))
    print(row("  our share (without the engine's prefill)", [each.first - each.at - PREFILL_S for each in asked]))
    print(row("first words after the engine's first token", [each.first - begun[each.text] for each in asked]))
    print(row("final text after the engine's last token", [each.final - ended[each.text] for each in asked]))


def lag_line(lag: Sequence[float]) -> str:
    """The event loop's lag as text."""
    return f"lag of the event loop: 99.9 % below {lag[0] * 1000:.0f} ms, worst {lag[1] * 1000:.0f} ms"


def row(name: str, seconds: Sequence[float]) -> str:
    """One line of the table, in milliseconds."""
    ordered = sorted(seconds)
    shown = (median(ordered), ordered[int(len(ordered) * 0.9)], ordered[-1])
    return f"  {name:44}" + "".join(f"{each * 1000:9.0f}" for each in shown)


async def discord(root: Path) -> None:
    """Measures Discord and prints the results."""
    async with FakeDiscord() as server:
        people = [server.user(f"person-{number}") for number in range(CHANNELS)]
        channels = [server.text_channel(f"channel-{number}") for number in range(CHANNELS)]
        texts = texts_of(ROUNDS)
        authority = str(server.write_ca(root / "ca.pem"))
        questions = [text for turn in texts for text in turn]
        parameters = ServingParameters(
            str(root), questions, {"discord_bot_token": server.token}, server.port, authority
        )
        process = await started(parameters)
        await server.until(lambda: server.gateway.online and server.commands, 60)
        asked: list[Asked] = []
        for turn in texts:
            at_once = zip(people, channels, turn, strict=True)
            asked += await asyncio.gather(*(ask_on_discord(server, *each) for each in at_once))
        out, _ = await process.communicate(b"")  # ends its stdin
        measured = json.loads(out)
        table(asked, measured["begun"], measured["ended"])
        print(f"429s: {server.rate_limited}; calls of Discord: {len(server.calls)}")
        print(lag_line(measured["lag"]))


async def slack(root: Path) -> None:
    """Measures Slack and prints the results."""
    async with FakeSlack() as server:
        people = [server.user(f"person-{number}") for number in range(CHANNELS)]
        channels = [server.channel(f"channel-{number}") for number in range(CHANNELS)]
        texts = texts_of(SLACK_ROUNDS)
        questions = [text for turn in texts for text in turn] + [f"loaded {number}" for number in range(CHANNELS)]
        given = load_settings()
        model = str(pull(Catalog.of(given).get("smollm2"), given))
        tokens = {name: str(value) for name, value in server.settings().items()}
        process = await started(ServingParameters(str(root), questions, tokens))
        await server.until(lambda: server.sockets.online, 60)
        asked: list[Asked] = []
        for turn in texts:
            at_once = zip(people, channels, turn, strict=True)
            asked += await asyncio.gather(*(ask_on_slack(server, *each) for each in at_once))
            await asyncio.sleep(SLACK_PAUSE_S)
        out, _ = await process.communicate(b"")  # ends its stdin
        measured = json.loads(out)
        table(asked, measured["begun"], measured["ended"])
        print(f"429s: {server.rate_limited}; calls of Slack: {len(server.calls)}")
        print(lag_line(measured["lag"]))
        await acks(server, people, channels, ServingParameters(str(root), questions, tokens, loads=model))


async def acks(
    server: FakeSlack, people: Sequence[SlackPerson], channels: Sequence[SlackChannel], parameters: ServingParameters
) -> None:
    """Measures acknowledgements while a model loads and eight answers are streamed."""
    process = await started(parameters)
    await server.until(lambda: server.sockets.online, 60)
    before = len(server.acks)
    answers = [
        asyncio.create_task(ask_on_slack(server, who, where, f"loaded {number}"))
        for number, (who, where) in enumerate(zip(people, channels, strict=True))
    ]
    for number in range(ENVELOPES - 2 * CHANNELS):
        await people[number % CHANNELS].says(channels[number % CHANNELS], f"chatter {number}")
        await asyncio.sleep(ENVELOPE_GAP_S)
    await asyncio.gather(*answers)
    out, _ = await process.communicate(b"")
    seconds = [ack.seconds for ack in server.acks[before:]]
    print(f"acks of {len(seconds)} envelopes while a model loads; ms" + f"{'median':>14}{'p90':>9}{'worst':>9}")
    print(row("from the envelope to its ack", seconds))
    print(lag_line(json.loads(out)["lag"]))


async def burst(root: Path, platform: str, name: str, model: str) -> None:
    """Measures hundreds of questions in one second, while answers are streamed."""
    # Any: the two fakes have the same methods but no common type
    fake: Any = FakeDiscord() if platform == "discord" else FakeSlack()
    async with fake as server:
        new_channel = server.text_channel if platform == "discord" else server.channel
        people = [server.user(f"person-{number}") for number in range(ASKING)]
        talks = [new_channel(f"talk-{number}") for number in range(STREAMING)]
        channels = [new_channel(f"channel-{number}") for number in range(ASKING)]
        stories = [f"Count to one thousand, one number a line, beginning with {number}." for number in range(STREAMING)]
        parameters = ServingParameters(str(root), stories, {}, model=model, at_once=STREAMING, tokens=LONG)
        process = await started(replace(parameters, **ways_to(server, root)))
        await server.until(lambda: (server.gateway if platform == "discord" else server.sockets).online, 60)
        for who, where, story in zip(people, talks, stories, strict=False):
            await who.says(where, story, mention=True)
        await server.until(lambda: all(where.messages for where in talks), 120)
        gap = (1 if platform == "discord" else 2) / EVENTS  # a mention is two events on Slack
        sent: dict[str, float] = {}
        began = time.monotonic()
        for number in range(round(1 / gap)):
            await asyncio.sleep(max(0.0, began + number * gap - time.monotonic()))
            said = await people[number % ASKING].says(channels[number % ASKING], f"question {number}", mention=True)
            sent[said.id if platform == "discord" else said.ts] = time.time()
        took = time.monotonic() - began
        for _ in range(PATIENCE_S):
            await asyncio.sleep(1.0)
            if rows(root / "state", "SELECT count(*) FROM inbox") == [(len(sent) + STREAMING,)]:
                break
        await asyncio.sleep(1.0)  # time for the last acknowledgements
        out, _ = await process.communicate(b"")
        measured = json.loads(out)
        print(f"{platform}: {len(sent)} questions in {took:.1f} s, {STREAMING} answers of {name} are streamed; ms")
        print(f"  {'':44}{'median':>9}{'p90':>9}{'worst':>9}")
        waited = [measured["stored"].get(each, math.inf) - at for each, at in sent.items()]
        print(row("from the question to its being stored", waited))
        if platform == "slack":
            acknowledged(server, sent)
        print(f"  {lag_line(measured['lag'])}; 429s: {server.rate_limited}")


def ways_to(server: Any, root: Path) -> dict[str, Any]:
    """The ServingParameters fields that connect a service to a fake."""
    if isinstance(server, FakeSlack):
        return {"settings": {name: str(value) for name, value in server.settings().items()}}
    authority = str(server.write_ca(root / "ca.pem"))
    return {"settings": {"discord_bot_token": server.token}, "port": server.port, "authority": authority}


def acknowledged(server: FakeSlack, sent: Collection[str]) -> None:
    """Prints how long the events of these messages waited for their first acknowledgement by Slack."""
    events = {each.event_id for each in server.sockets.envelopes if each.payload["event"].get("ts") in sent}
    first = {each.event_id: each.seconds for each in server.acks if each.event_id in events and each.attempt == 0}
    print(row("from an event to its acknowledgement", [first.get(each, math.inf) for each in events]))
    in_time = sum(seconds <= ACK_S for seconds in first.values())
    print(f"  {in_time} of {len(events)} events were acknowledged within {ACK_S:g} s")


def main() -> None:
    """Runs the benchmark of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", choices=["discord", "slack"])
    parser.add_argument("--burst", action="store_true")
    parser.add_argument("--model", choices=["script", "smollm2"])
    given = parser.parse_args()
    if given.burst:
        settings = load_settings()
        for name in [given.model] if given.model else ["script", "smollm2"]:
            model = "" if name == "script" else str(pull(Catalog.of(settings).get(name), settings))
            for platform in [given.platform] if given.platform else ["discord", "slack"]:
                with tempfile.TemporaryDirectory() as directory:
                    asyncio.run(burst(Path(directory), platform, name, model))
        return
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run((slack if given.platform == "slack" else discord)(Path(directory)))


if __name__ == "__main__":
    main()
