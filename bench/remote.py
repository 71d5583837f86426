"""`python -m bench.remote`: the engine on a server against the same server called directly, interleaved in one run.

The server is the test suite's fake with a fixed pace a word, in a process of its own: the figures are our overhead, not
a model's speed. With `--real` it is llama.cpp's server with SmolLM2, greedy, 64 tokens an answer. 16 conversations at
once; the direct client is plain aiohttp, which parses each chunk of the stream. A real server takes new requests
between two steps of its batch only, so there the conversations begin within SPREAD_S seconds, at the same random times
for both clients: begun at once, the first tokens would all be a step earlier or later.
`--kills N`: the service over two such servers, one of which is killed about every two seconds, with N questions in each
of 16 conversations; exit status 1 if an answer was lost, doubled or cut. With `--real` two llama.cpp servers, one of
which is killed about every 20 s, for N seconds.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from random import Random
from statistics import median

import aiohttp

from bot.config.settings import load_settings
from bot.engine.remote.remote_engine import RemoteEngine
from bot.models.catalog import Catalog
from bot.models.pull import pull
from bot.types.engine import EngineRequest, ModelSource
from bot.types.messages import Prompt, Role, SamplingParams, Turn
from tests.support.crash.server_kills import CONVERSATIONS, MODEL, kill_real_servers, kill_servers
from tests.support.fakes.openai.server_process import ServerProcess
from tests.support.real_servers.servers import llama_cpp

WORDS = 100
QUESTION = " ".join(f"word{number}" for number in range(WORDS))
STORY = "Write a long story about a bear."
REAL_TOKENS = 64
SPREAD_S = 4.0
REAL_EVERY_S = 20.0
Timed = tuple[float, int]
"""Seconds to the first text, and the number of pieces of text."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked, of which model, how many tokens an answer may have, and within which time all begin."""

    question: str = QUESTION
    model: str = MODEL
    tokens: int = 4096
    spread_s: float = 0.0


async def ask_engine(engine: RemoteEngine, name: str, case: Case) -> Timed:
    """One answer through the engine."""
    prompt = Prompt("", (Turn(Role.USER, "", case.question, name, 0.0),))
    params = SamplingParams(temperature=0.0, top_p=1.0, repetition_penalty=1.0, max_tokens=case.tokens)
    began, first, pieces = time.perf_counter(), 0.0, 0
    async for delta in engine.stream(EngineRequest(name, prompt, params, name)):
        if delta.text:
            first = first or time.perf_counter() - began
            pieces += 1
    return first, pieces


async def ask_directly(session: aiohttp.ClientSession, url: str, case: Case) -> Timed:
    """One answer by plain aiohttp."""
    messages = [{"role": "user", "content": case.question}]
    body = {"model": case.model, "messages": messages, "stream": True, "temperature": 0, "max_tokens": case.tokens}
    began, first, pieces = time.perf_counter(), 0.0, 0
    async with session.post(f"{url}/chat/completions", json=body) as response:
        async for line in response.content:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                first = first or time.perf_counter() - began
                pieces += 1
    return first, pieces


async def at_once(ask: Callable[[str], Awaitable[Timed]], round_: int, spread_s: float) -> tuple[float, float]:
    """All conversations at once; pieces of text a second, and the median time to the first one in ms."""
    chance = Random(round_)

    async def later(number: int, seconds: float) -> Timed:
        await asyncio.sleep(seconds)
        return await ask(f"{round_}-{number}")

    began = time.perf_counter()
    answers = await asyncio.gather(*(later(number, chance.uniform(0.0, spread_s)) for number in range(CONVERSATIONS)))
    seconds = time.perf_counter() - began
    return sum(pieces for _, pieces in answers) / seconds, 1000 * median(first for first, _ in answers)


async def compare_at_pace(pace_s: float, rounds: int) -> None:
    """Print one line: both clients at one pace of a fake server."""
    arguments = {"kind": "vllm", "models": {MODEL: 8192}, "pace_s": pace_s, "slots": 2 * CONVERSATIONS}
    async with ServerProcess(**arguments) as server:
        await compare(server.url, Case(), f"{1000 * pace_s:.0f}", rounds)


async def compare_real(rounds: int) -> None:
    """Print one line: both clients with a real server."""
    with tempfile.TemporaryDirectory() as logs, llama_cpp(smollm2(), Path(logs), slots=CONVERSATIONS) as server:
        await compare(server.url, Case(STORY, server.model, REAL_TOKENS, SPREAD_S), "llama.cpp", rounds)


async def compare(url: str, case: Case, name: str, rounds: int) -> None:
    """Print one line: both clients with one server."""
    async with aiohttp.ClientSession() as session:
        engine = RemoteEngine([url])
        await engine.load(ModelSource(case.model, case.model), lambda _: None)
        ours, theirs = list[tuple[float, float]](), list[tuple[float, float]]()
        clients = [
            (theirs, lambda _: ask_directly(session, url, case)),
            (ours, lambda name: ask_engine(engine, name, case)),
        ]
        for number in range(rounds + 1):
            for figures, ask in clients:
                figures.append(await at_once(ask, number, case.spread_s))
            clients.reverse()
        del ours[0], theirs[0]  # the first round warms up
        await engine.close()
    speed, first = (median(values) for values in zip(*ours, strict=True))
    direct_speed, direct_first = (median(values) for values in zip(*theirs, strict=True))
    ratio = median(one[0] / other[0] for one, other in zip(ours, theirs, strict=True))
    late = median(one[1] - other[1] for one, other in zip(ours, theirs, strict=True))
    print(
        f"| {name} | {direct_speed:,.0f} | {speed:,.0f} | {ratio:.3f} "
        f"| {direct_first:.1f} | {first:.1f} | {late:+.1f} |",
        flush=True,
    )


async def kills(number: int, real: bool) -> bool:
    """Ask while servers are killed; whether all answers are right. number: questions, or seconds for real servers."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if real:
            with (
                llama_cpp(smollm2(), root, slots=CONVERSATIONS) as one,
                llama_cpp(smollm2(), root, slots=CONVERSATIONS) as two,
            ):
                tally = await kill_real_servers(root, (one, two), number, REAL_EVERY_S, Random(1))
        else:
            tally = await kill_servers(root, questions=number, every_s=2.0, chance=Random(1))
    print(tally)
    return not any(astuple(tally)[3:])


def smollm2() -> Path:
    """The directory of SmolLM2."""
    settings = load_settings()
    return pull(Catalog.of(settings).get("smollm2"), settings)


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="questions in each conversation")
    parser.add_argument("--real", action="store_true", help="llama.cpp with SmolLM2; N are seconds then")
    chosen = parser.parse_args()
    if chosen.kills:
        return 0 if asyncio.run(kills(chosen.kills, chosen.real)) else 1
    print("| server's ms a token | tokens/s direct | engine | ratio | first token direct, ms | engine | later |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    if chosen.real:
        asyncio.run(compare_real(chosen.rounds))
        return 0
    for pace_s in (0.05, 0.02, 0.0):
        asyncio.run(compare_at_pace(pace_s, chosen.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
