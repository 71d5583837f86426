"""`python -m bench.gaps`: how long a long prompt holds up the answers that are being written.

Some answers are written at once through our engine; into that comes a prompt of 2,000 tokens. Prints the median gap
between two deltas before it came, the longest one while it was read, and their ratio, which the project promises to be
at most 5, at 1, 4 and 8 answers; three times each, the medians of that.
"""

import asyncio
from contextlib import aclosing
from itertools import pairwise
from statistics import median
from time import perf_counter

from bench.asking import ask, conversation, options, unseen
from bot.engine.client.process import EngineProcess
from bot.types.engine import EngineRequest, ModelSource
from bot.types.messages import SamplingParams

LONG = "The keys are under the mat, and the dog sleeps at the {number} door. " * 130
BEFORE, AFTER = 24, 400
"""Deltas of every answer before the prompt comes, and tokens of an answer at most."""
ROUNDS = 3


class Stream:
    """An answer that is being written, and when its deltas came."""

    def __init__(self, engine: EngineProcess, name: str) -> None:
        self.name, self.times = name, [perf_counter()]
        self._written = asyncio.Event()
        self._engine = engine
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        asked = conversation([f"{self.name}: tell me a very long story about the sea, with many people in it."])
        # A penalty keeps it from ending, and from repeating itself, which would come in larger pieces; greedy, it says
        # nothing that takes several tokens to become a text.
        params = SamplingParams(temperature=0.0, repetition_penalty=1.2, max_tokens=AFTER)
        async with aclosing(self._engine.stream(EngineRequest(self.name, asked, params))) as deltas:
            async for delta in deltas:
                if delta.text:
                    self.times.append(perf_counter())
                if len(self.times) > BEFORE:
                    self._written.set()

    async def begun(self) -> None:
        """Wait for enough deltas."""
        await asyncio.wait_for(self._written.wait(), 120)


async def once(engine: EngineProcess, count: int, label: str) -> tuple[float, float]:
    """Seconds: the median gap before, the longest gap while the prompt is read."""
    streams = [Stream(engine, f"{label} {number}") for number in range(count)]
    await asyncio.gather(*(stream.begun() for stream in streams))
    asked_at = perf_counter()
    await ask(engine, f"{label} long", conversation([LONG.format(number=label)]), 1)
    read_at = perf_counter()
    for stream in streams:
        await engine.abort(stream.name)
    await asyncio.gather(*(stream.task for stream in streams))
    gaps = [(later, later - earlier) for stream in streams for earlier, later in pairwise(stream.times[5:])]
    before = median(gap for at, gap in gaps if at < asked_at)
    return before, max(gap for at, gap in gaps if asked_at <= at <= read_at)


async def main() -> None:
    """Measure and print."""
    given = options("bench.gaps")
    engine = EngineProcess()
    loaded = await engine.load(ModelSource("bench", str(given.model), device="cpu", dtype=given.dtype), unseen)
    print(f"gaps between two deltas while a prompt of 2,000 tokens is read, {loaded.dtype}")
    for count in (1, 4, 8):
        found = [await once(engine, count, f"{count} {number}") for number in range(ROUNDS)]
        ratios = "  ".join(f"{longest / before:.1f}" for before, longest in found)
        before, longest = median(one for one, _ in found), median(one for _, one in found)
        print(
            f"  {count} answers: before {before * 1000:4.0f} ms, longest while it is read {longest * 1000:5.0f} ms; "
            f"in steps {ratios}   (promised: at most 5)",
            flush=True,
        )
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
