"""`python -m bench.remote`: the engine on a server against the same server called directly, interleaved in one run.

The server is the test suite's fake with a fixed pace a word, in a process of its own: the figures are our overhead, not
a model's speed. 16 conversations at once; the direct client is plain aiohttp, which parses each chunk of the stream.
`--kills N`: the service over two such servers, one of which is killed about every two seconds, with N questions in each
of 16 conversations; exit status 1 if an answer was lost, doubled or cut.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import astuple
from pathlib import Path
from random import Random
from statistics import median

import aiohttp

from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.engine import EngineRequest, ModelSource
from bot.types.messages import Prompt, Role, SamplingParams, Turn
from tests.support.crash.server_kills import CONVERSATIONS, MODEL, kill_servers
from tests.support.fakes.openai.server_process import ServerProcess

WORDS = 100
QUESTION = " ".join(f"word{number}" for number in range(WORDS))
Timed = tuple[float, int]
"""Seconds to the first text, and the number of pieces of text."""


async def ask_engine(engine: RemoteEngine, name: str) -> Timed:
    """One answer through the engine."""
    prompt = Prompt("", (Turn(Role.USER, "", QUESTION, name, 0.0),))
    began, first, pieces = time.perf_counter(), 0.0, 0
    async for delta in engine.stream(EngineRequest(name, prompt, SamplingParams(max_tokens=4096), name)):
        if delta.text:
            first = first or time.perf_counter() - began
            pieces += 1
    return first, pieces


async def ask_directly(session: aiohttp.ClientSession, url: str) -> Timed:
    """One answer by plain aiohttp."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    began, first, pieces = time.perf_counter(), 0.0, 0
    async with session.post(f"{url}/chat/completions", json=body) as response:
        async for line in response.content:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                first = first or time.perf_counter() - began
                pieces += 1
    return first, pieces


async def at_once(ask: Callable[[str], Awaitable[Timed]], round_: str) -> tuple[float, float]:
    """All conversations at once; pieces of text a second, and the median time to the first one in ms."""
    began = time.perf_counter()
    answers = await asyncio.gather(*(ask(f"{round_}-{number}") for number in range(CONVERSATIONS)))
    seconds = time.perf_counter() - began
    return sum(pieces for _, pieces in answers) / seconds, 1000 * median(first for first, _ in answers)


async def compare(pace_s: float, rounds: int) -> None:
    """Print one line: both clients at one pace of the server."""
    arguments = {"kind": "vllm", "models": {MODEL: 8192}, "pace_s": pace_s, "slots": 2 * CONVERSATIONS}
    async with ServerProcess(**arguments) as server, aiohttp.ClientSession() as session:
        engine = RemoteEngine([server.url])
        await engine.load(ModelSource(MODEL, MODEL), lambda _: None)
        ours, theirs = list[tuple[float, float]](), list[tuple[float, float]]()
        clients = [
            (theirs, lambda _: ask_directly(session, server.url)),
            (ours, lambda name: ask_engine(engine, name)),
        ]
        for number in range(rounds + 1):
            for figures, ask in clients:
                figures.append(await at_once(ask, str(number)))
            clients.reverse()
        del ours[0], theirs[0]  # the first round warms up
        await engine.close()
    speed, first = (median(values) for values in zip(*ours, strict=True))
    direct_speed, direct_first = (median(values) for values in zip(*theirs, strict=True))
    ratio = median(one[0] / other[0] for one, other in zip(ours, theirs, strict=True))
    late = median(one[1] - other[1] for one, other in zip(ours, theirs, strict=True))
    print(
        f"| {1000 * pace_s:.0f} | {direct_speed:,.0f} | {speed:,.0f} | {ratio:.3f} "
        f"| {direct_first:.1f} | {first:.1f} | {late:+.1f} |",
        flush=True,
    )


async def kills(questions: int) -> bool:
    """Ask `questions` in each conversation while servers are killed; whether all answers are right."""
    with tempfile.TemporaryDirectory() as folder:
        tally = await kill_servers(Path(folder), questions=questions, every_s=2.0, chance=Random(1))
    print(tally)
    return not any(astuple(tally)[3:])


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="questions in each conversation")
    chosen = parser.parse_args()
    if chosen.kills:
        return 0 if asyncio.run(kills(chosen.kills)) else 1
    print("| server's ms a token | tokens/s direct | engine | ratio | first token direct, ms | engine | later |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for pace_s in (0.05, 0.02, 0.0):
        asyncio.run(compare(pace_s, chosen.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
