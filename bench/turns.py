"""`python -m bench.turns`: how long the next turn of a conversation waits for its first token.

A conversation is held through our engine until its tenth turn has about 2,000 tokens; then that turn's first token is
timed with the prefix in the cache and, for an equally long conversation never seen before, without. The same is done
with a smaller context window, at the second turn after the history had to be trimmed (the first one is cold by nature).
"""

import asyncio
from itertools import count
from pathlib import Path
from statistics import median

from bench.asking import Timed, ask, conversation, model_directory, unseen
from bot.engine.base import ModelSource
from bot.engine.process import EngineProcess

TURNS = 10
TOKENS = 100
SMALL_WINDOW = 1600
REPEATS = 3
QUESTION = (
    "Part {number} of the story: go on with it, and tell in many words what the keeper of the lighthouse did "
    "next, whom he met on the way down to the harbour, what they said to each other about the weather, the "
    "ships and the old days, and how the sea looked that evening when the wind had turned and the first lamps "
    "were lit along the shore. Then say what he thought of it all while he climbed the stairs again, one "
    "hundred and ninety of them, with the oil in hand."
)


class Story:
    """A conversation that goes on and on."""

    def __init__(self, engine: EngineProcess) -> None:
        self._engine = engine
        self._names = count()
        self.said: list[str] = []

    async def turn(self) -> Timed:
        """Ask the next question and remember the answer."""
        self.said.append(QUESTION.format(number=len(self.said) // 2 + 1))
        answer = await ask(self._engine, f"turn {next(self._names)}", conversation(self.said), TOKENS)
        self.said.append(answer.text or "...")
        return answer

    async def next_token(self, seen: bool) -> Timed:
        """The first token of the next turn, asked in other words each time; if not `seen`, by a stranger."""
        number = next(self._names)
        said = list(self.said)
        if not seen:
            said = [f"{number} {text}" for text in said]
        said.append(f"{number}: " + QUESTION.format(number=len(said) // 2 + 1))
        return await ask(self._engine, f"probe {number}", conversation(said), TOKENS)


async def compare(label: str, story: Story) -> float:
    """Time warm and cold first tokens in turns; print them; their ratio."""
    warm, cold = [], []
    for _ in range(REPEATS):
        warm.append(await story.next_token(seen=True))
        cold.append(await story.next_token(seen=False))
    for name, probes in (("cached", warm), ("cold", cold)):
        times = "  ".join(f"{probe.first_s * 1000:6.0f}" for probe in probes)
        usage = probes[-1].usage
        print(f"  {name:7} {times} ms   ({usage.cached_tokens} of {usage.prompt_tokens} tokens found in the cache)")
    ratio = median(probe.first_s for probe in warm) / median(probe.first_s for probe in cold)
    print(f"  {label}: cached / cold {ratio:.3f}   (promised: at most 0.15)")
    return ratio


async def long_conversation(engine: EngineProcess, path: Path) -> None:
    """Turn TURNS of a conversation that fits the window."""
    await engine.load(ModelSource("bench", str(path), device="cpu"), unseen)
    story = Story(engine)
    for _ in range(TURNS - 1):
        await story.turn()
    await compare(f"turn {TURNS}", story)


async def trimmed_conversation(engine: EngineProcess, path: Path) -> None:
    """The second turn after the history no longer fitted a smaller window."""
    source = ModelSource("bench", str(path), context_window=SMALL_WINDOW, device="cpu")
    await engine.load(source, unseen)
    story = Story(engine)
    while not (answer := await story.turn()).usage.dropped_turns:
        pass
    print(f"  trimmed at turn {len(story.said) // 2}: {answer.usage.dropped_turns} turns dropped")
    await compare("second turn after trimming", story)


async def main() -> None:
    """Measure and print."""
    path = model_directory(main.__module__)
    engine = EngineProcess()
    print("A conversation that fits the context window:")
    await long_conversation(engine, path)
    print(f"A conversation in a context window of {SMALL_WINDOW} tokens:")
    await trimmed_conversation(engine, path)
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
