"""`python -m bench.busy`: measures our engine beside other busy processes.

Eight conversations of SmolLM2 are answered at once, in turn on the quiet machine and beside as many endless loops as
there are cores. Prints the tokens per second of both, and their ratio (target: at least 0.3); medians of three rounds.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter

from bench.asking import ask, conversation, options, unseen
from bot.engine.client.process import EngineProcess
from bot.types.engine import ModelSource

CONVERSATIONS = 8
TOKENS = 96
ROUNDS = 3
LOOP = "while True: pass"


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Runs endless loops in processes of their own."""
    running = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(loops)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


async def speed(engine: EngineProcess, label: str) -> float:
    """Tokens per second of all conversations."""
    began = perf_counter()
    questions = [f"{label} {number}: tell me a long story about the sea." for number in range(CONVERSATIONS)]
    answers = await asyncio.gather(*(ask(engine, each, conversation([each]), TOKENS) for each in questions))
    return sum(each.usage.generated_tokens for each in answers) / (perf_counter() - began)


async def main(source: ModelSource) -> None:
    """Prints a Markdown table."""
    loops = os.cpu_count() or 1
    engine = EngineProcess()
    try:
        await engine.load(source, unseen)
        await speed(engine, "first")
        found = list[tuple[float, float]]()
        for number in range(ROUNDS):
            quiet = await speed(engine, f"quiet {number}")
            with busy(loops):
                found.append((quiet, await speed(engine, f"beside {number}")))
    finally:
        await engine.close()
    quiet, beside = (median(values) for values in zip(*found, strict=True))
    ratio = median(one / other for other, one in found)
    print("| tokens/s quiet | beside the loops | ratio |\n| --- | --- | --- |")
    print(f"| {quiet:.1f} | {beside:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    given = options("bench.busy")
    asyncio.run(main(ModelSource("bench", str(given.model), device="cpu", dtype=given.dtype)))
