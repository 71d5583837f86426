"""`python -m bench.turns`: measures the time to the first token of a conversation's next turn.

Continues a conversation through our engine until its tenth turn has about 2,000 tokens. Then times that turn's first
token with the prefix in the cache, and without, for an equally long conversation that is new. Repeats this after 800
tokens with a short question, and in a smaller context window at the second turn after the history was trimmed (the
first one is never cached).
"""

import asyncio
from itertools import count
from statistics import median

from bench.asking import Options, Timed, ask, conversation, options, unseen
from bot.engine.client.process import EngineProcess
from bot.types.engine import ModelSource

TURNS = 10
SHORT_AFTER = 4
"""Turns, about 800 tokens."""
TOKENS = 100
SMALL_WINDOW = 1600
REPEATS = 3
OTHER_WORDS = ("Act", "Book", "Page", "Song", "Line", "Side", "Step", "Day")
"""Replacements for "Part", one token each: they make a conversation of the same length that is not in the cache."""
QUESTION = (
    "Part {number} of the story: go on with it, and tell in many words what the keeper of the lighthouse did "
    "next, whom he met on the way down to the harbour, what they said to each other about the weather, the "
    "ships and the old days, and how the sea looked that evening when the wind had turned and the first lamps "
    "were lit along the shore. Then say what he thought of it all while he climbed the stairs again, one "
    "hundred and ninety of them, with the oil in hand."
)
SHORT = "Part {number}: who was it?"


class Story:
    """A growing conversation."""

    def __init__(self, engine: EngineProcess) -> None:
        self._engine = engine
        self._names = count()
        self.said: list[str] = []

    async def turn(self) -> Timed:
        """Asks the next question and keeps the answer."""
        self.said.append(QUESTION.format(number=len(self.said) // 2 + 1))
        answer = await ask(self._engine, f"turn {next(self._names)}", conversation(self.said), TOKENS)
        self.said.append(answer.text or "...")
        return answer

    async def next_token(self, seen: bool, question: str) -> Timed:
        """Times the first token of the next turn with new wording; if not `seen`, in a conversation that is not
        cached."""
        number = next(self._names)
        word = OTHER_WORDS[number % len(OTHER_WORDS)]
        said = list(self.said) if seen else [text.replace("Part", word, 1) for text in self.said]
        said.append(question.format(number=len(said) // 2 + 1).replace("Part", word, 1))
        return await ask(self._engine, f"probe {number}", conversation(said), TOKENS, only_first=True)


async def compare(label: str, story: Story, question: str = QUESTION) -> None:
    """Times cached and cold first tokens alternately; prints them and their ratio."""
    warm, cold = [], []
    for _ in range(REPEATS):
        warm.append(await story.next_token(True, question))
        cold.append(await story.next_token(False, question))
    for name, probes in (("cached", warm), ("cold", cold)):
        times = "  ".join(f"{probe.first_s * 1000:6.0f}" for probe in probes)
        usage = probes[-1].usage
        found = f"{usage.cached_tokens} of {usage.prompt_tokens} tokens found"
        print(f"  {name:7} {times} ms   ({found}, {usage.dropped_turns} turns dropped)")
    ratio = median(probe.first_s for probe in warm) / median(probe.first_s for probe in cold)
    print(f"  {label}: cached / cold {ratio:.3f}   (promised: at most 0.15)", flush=True)


async def long_conversation(engine: EngineProcess, given: Options) -> None:
    """Measures turn TURNS of a conversation that fits the window."""
    await engine.load(ModelSource("bench", str(given.model), device="cpu", dtype=given.dtype), unseen)
    story = Story(engine)
    for number in range(TURNS - 1):
        if number == SHORT_AFTER:
            await compare("a short question", story, SHORT)
        await story.turn()
    await compare(f"turn {TURNS}", story)


async def trimmed_conversation(engine: EngineProcess, given: Options) -> None:
    """Measures the second turn after the history exceeded a smaller window."""
    source = ModelSource("bench", str(given.model), context_window=SMALL_WINDOW, device="cpu", dtype=given.dtype)
    await engine.load(source, unseen)
    story = Story(engine)
    while not (answer := await story.turn()).usage.dropped_turns:
        pass
    print(f"  trimmed at turn {len(story.said) // 2}: {answer.usage.dropped_turns} turns dropped")
    await compare("second turn after trimming", story)


async def main() -> None:
    """Measures and prints."""
    given = options("bench.turns")
    engine = EngineProcess()
    print("A conversation that fits the context window:")
    await long_conversation(engine, given)
    print(f"A conversation in a context window of {SMALL_WINDOW} tokens:")
    await trimmed_conversation(engine, given)
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
