"""`python -m bench.switching`: measures switches between two models, and the memory for keeping both.

Uses two copies of one model under two names, which the engine treats as different. Prints the seconds of every switch
(never loaded, kept, kept again), the first token of the next answer, and the memory of the process. --model and --dtype
as in the other benchmarks.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from time import perf_counter

import psutil

from bench.asking import ask, conversation, options, unseen
from bot.engine.client.process import EngineProcess
from bot.types.engine import ModelSource

MB = 1 << 20
QUESTION = "Tell me about the sea, please. " * 20


async def switch(engine: EngineProcess, how: str, source: ModelSource) -> None:
    """Loads a model, asks a question, and prints."""
    peak = asyncio.create_task(sampled(engine))
    began = perf_counter()
    await engine.load(source, unseen)
    took = perf_counter() - began
    peak.cancel()
    highest = (await asyncio.gather(peak, return_exceptions=True))[0]
    answer = await ask(engine, how, conversation([QUESTION]), 8)
    stats = await engine.stats()
    print(
        f"{how:28} {took:7.3f} s, first token {answer.first_s:6.3f} s ({answer.usage.cached_tokens} of "
        f"{answer.usage.prompt_tokens} tokens kept), {stats.resident_mb} MB (highest while loading: {highest} MB), "
        f"GPU {stats.gpu_used_mb} MB, kept: {', '.join(stats.resident)}",
        flush=True,
    )


async def sampled(engine: EngineProcess) -> int:
    """The highest memory of the process in MB, until cancelled."""
    highest = 0
    try:
        while True:
            if engine.pid is not None:
                highest = max(highest, psutil.Process(engine.pid).memory_info().rss // MB)
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        return highest


async def main() -> None:
    """Measures and prints."""
    given = options("bench.switching")
    engine = EngineProcess()
    with tempfile.TemporaryDirectory() as root:
        copy = Path(root) / "copy"
        shutil.copytree(given.model, copy)
        one = ModelSource("one", str(given.model), dtype=given.setting)
        two = ModelSource("two", str(copy), dtype=given.setting)
        try:
            await switch(engine, "one, and the process starts", one)
            await switch(engine, "two, never loaded", two)
            await switch(engine, "back to one", one)
            await switch(engine, "two again", two)
        finally:
            await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
