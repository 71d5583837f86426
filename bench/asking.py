"""Shared helpers of the benchmarks: the model, an engine, and timed answers."""

import argparse
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from bot.config.settings import load_settings
from bot.engine.client.process import EngineProcess
from bot.models.catalog import Catalog
from bot.models.format_choice import measured
from bot.models.hardware import Hardware, choose_dtype, detect
from bot.models.pull import pull
from bot.types.engine import EngineRequest, LoadProgress
from bot.types.messages import Prompt, Role, SamplingParams, Turn, Usage


@dataclass(frozen=True)
class Timed:
    """An answer, and the seconds until its first text."""

    text: str
    first_s: float
    usage: Usage


@dataclass(frozen=True)
class Options:
    """Options of the command line. dtype: what the setting means on the CPU; plain: for others, which pack nothing."""

    model: Path
    setting: str
    dtype: str
    plain: str


def options(description: str, *more: argparse.ArgumentParser) -> Options:
    """Parses --model (default: smollm2 from the cache, downloaded if missing) and --dtype.

    more: parsers of further options.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {description}", parents=more)
    parser.add_argument("--model", type=Path, help="directory of a model; smollm2 without it")
    parser.add_argument("--dtype", default="auto", help="auto (what suits the machine), float32, float16 or bfloat16")
    given = parser.parse_args()
    settings = load_settings()
    model: Path = given.model or pull(Catalog.of(settings).get("smollm2"), settings)
    cpu = measured_cpu()
    dtype, plain = (choose_dtype(given.dtype, each) for each in (cpu, replace(cpu, packs=())))
    return Options(model, given.dtype, dtype, plain)


def measured_cpu() -> Hardware:
    """The machine without its GPU, with the order of packed formats that a load measures."""
    return measured(detect("cpu"), load_settings().cache_dir)


def conversation(said: Sequence[str], system: str = "") -> Prompt:
    """A conversation of alternating user and assistant turns, the user first."""
    roles = (Role.USER, Role.ASSISTANT)
    turns = (Turn(roles[n % 2], "", text, str(n), float(n)) for n, text in enumerate(said))
    return Prompt(system, tuple(turns))


async def ask(
    engine: EngineProcess, request_id: str, prompt: Prompt, max_tokens: int, only_first: bool = False
) -> Timed:
    """One greedy answer; with `only_first` it is aborted at its first text."""
    params = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=max_tokens)
    began = perf_counter()
    text, first_s = "", 0.0
    async with aclosing(engine.stream(EngineRequest(request_id, prompt, params))) as deltas:
        async for delta in deltas:
            if not first_s:
                first_s = perf_counter() - began
                if only_first:
                    await engine.abort(request_id)
            text += delta.text
    assert delta.usage is not None
    return Timed(text, first_s, delta.usage)


def unseen(progress: LoadProgress) -> None:
    """Ignores the progress of a load."""
