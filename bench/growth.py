"""`python -m bench.growth`: measures the engine process's memory over a thousand requests of all lengths.

Sends requests of 5 to 1,500 tokens with answers of 1 to 120, up to eight at once; some are aborted, some continue a
conversation. Prints the resident size every hundred requests, the KV cache's part of it (Linux), and the growth of the
last five hundred over the first, with and without the cache (target: below 3 %). The cache grows and shrinks with the
running requests, up to its limit. --requests sets another number.
"""

import argparse
import asyncio
import random
from pathlib import Path

from bench.asking import conversation, options, unseen
from bot.engine.client.process import EngineProcess
from bot.types.engine import EngineRequest, ModelSource
from bot.types.messages import SamplingParams

AT_ONCE = 8
WORDS = ("sea", "keeper", "lamp", "stairs", "harbour", "letter", "wind", "evening", "ship", "story", "door", "dog")


class Team:
    """Users who ask, each with conversations of their own."""

    def __init__(self, engine: EngineProcess, requests: int) -> None:
        self._engine, self._left, self._requests = engine, requests, requests
        self._random = random.Random(5)
        self.sizes: list[int] = []
        """MB, every hundred requests."""
        self.without_cache: list[int] = []
        """The same without the KV cache, where the system reports it."""

    async def ask(self) -> None:
        """Asks until the number of requests is reached."""
        said: list[str] = []
        while self._left:
            self._left -= 1
            number = self._requests - self._left
            if self._random.random() < 0.5:
                said = []
            said = [*said[-6:], " ".join(self._random.choices(WORDS, k=int(1500 ** self._random.random())))]
            said.append(await self._answer(str(number), said) or "...")
            if number % 100 == 0:
                self.sizes.append((await self._engine.stats()).resident_mb)
                cache = cache_mb(self._engine)
                if cache is not None:
                    self.without_cache.append(self.sizes[-1] - cache)
                of_it = "" if cache is None else f", {cache:,} of it KV cache"
                print(f"  {number:5} requests: {self.sizes[-1]:,} MB{of_it}", flush=True)

    async def _answer(self, name: str, said: list[str]) -> str:
        params = SamplingParams(temperature=0.8, max_tokens=int(120 ** self._random.random()))
        stop_at = self._random.randrange(200)
        text, count = "", 0
        async for delta in self._engine.stream(EngineRequest(name, conversation(said), params)):
            text, count = text + delta.text, count + 1
            if count == stop_at:
                await self._engine.abort(name)
        return text


def cache_mb(engine: EngineProcess) -> int | None:
    """MB of resident KV cache: mappings with the flag for no huge pages. None where the system does not report it."""
    rss = cache = 0
    try:
        lines = Path(f"/proc/{engine.pid}/smaps").read_text().splitlines()
    except OSError:
        return None
    for name, *values in map(str.split, lines):
        if name == "Rss:":
            rss = int(values[0])  # of the mapping whose flags follow
        elif name == "VmFlags:" and "nh" in values:
            cache += rss
    return cache // 1024 or None


async def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--requests", type=int, default=1000)
    requests = parser.parse_known_args()[0].requests
    if requests < 200:
        parser.error("--requests: at least 200, for a size of each half.")
    given = options("bench.growth", parser)
    engine = EngineProcess()
    loaded = await engine.load(ModelSource("bench", str(given.model), device="cpu", dtype=given.dtype), unseen)
    print(
        f"{requests} requests, {loaded.dtype}, weights {loaded.weights_mb} MB, KV cache up to {loaded.kv_cache_mb} MB"
    )
    team = Team(engine, requests)
    await asyncio.gather(*(team.ask() for _ in range(AT_ONCE)))
    for name, sizes in (("all", team.sizes), ("all but the cache", team.without_cache)):
        if len(sizes) == len(team.sizes):
            before, after = max(sizes[: len(sizes) // 2]), max(sizes[len(sizes) // 2 :])
            growth = f"{after / before - 1:+.1%} (promised: below 3)"
            print(f"  {name}: at most {before:,} MB in the first half, {after:,} in the last: {growth}")
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
