"""What the benches share: the model, an engine, and a clock on its answers."""

import argparse
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bot.config import load_settings
from bot.engine.base import EngineRequest, LoadProgress
from bot.engine.process import EngineProcess
from bot.messages import Prompt, Role, SamplingParams, Turn, Usage
from bot.models.catalog import Catalog
from bot.models.hub import pull


@dataclass(frozen=True)
class Timed:
    """An answer, and how many seconds its first text took."""

    text: str
    first_s: float
    usage: Usage


def model_directory(description: str) -> Path:
    """The model of the command line: --model DIRECTORY, or smollm2 from the cache (fetched if need be)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=Path, help="directory of a model; smollm2 without it")
    chosen: Path | None = parser.parse_args().model
    if chosen is not None:
        return chosen
    settings = load_settings()
    return pull(Catalog.of(settings).get("smollm2"), settings)


def conversation(said: Sequence[str], system: str = "") -> Prompt:
    """User and assistant in turns, the user first."""
    roles = (Role.USER, Role.ASSISTANT)
    turns = (Turn(roles[n % 2], "", text, str(n), float(n)) for n, text in enumerate(said))
    return Prompt(system, tuple(turns))


async def ask(engine: EngineProcess, request_id: str, prompt: Prompt, max_tokens: int) -> Timed:
    """One greedy answer."""
    params = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=max_tokens)
    began = perf_counter()
    text, first_s = "", 0.0
    async with aclosing(engine.stream(EngineRequest(request_id, prompt, params))) as deltas:
        async for delta in deltas:
            first_s = first_s or perf_counter() - began
            text += delta.text
    assert delta.usage is not None
    return Timed(text, first_s, delta.usage)


def unseen(progress: LoadProgress) -> None:
    """For loads whose progress nobody watches."""
