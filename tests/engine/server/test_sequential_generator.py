"""Tests one answer at a time: generate()'s text, with seeds, behind the same interface."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bot.engine.client.process import EngineProcess
from bot.types.errors import RequestFailed
from bot.types.messages import FinishReason
from tests.support.builders.engine_requests import GREEDY, Reference, ask, load

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_sequential_answers_are_what_generate_says(engine: EngineProcess, tiny: dict[str, Path]) -> None:
    loaded = await load(engine, tiny["phi3"], batching=False)
    assert (loaded.batching, loaded.max_running, loaded.kv_cache_mb) == (False, 1, 0)
    reference = Reference(tiny["phi3"])
    params = [replace(GREEDY, repetition_penalty=penalty) for penalty in (1.0, 1.2)]
    answers = await asyncio.gather(*(ask(engine, f"a{i}", "Who wrote this?", how) for i, how in enumerate(params)))
    for answer, how in zip(answers, params, strict=True):
        assert (answer.text, answer.usage.generated_tokens) == reference.answer("Who wrote this?", how)


async def test_a_seed_makes_an_answer_repeatable(engine: EngineProcess, tiny: dict[str, Path]) -> None:
    await load(engine, tiny["llama"], batching=False)
    warm = replace(GREEDY, temperature=1.5)
    seeds = (1, 2, 1)
    said = [(await ask(engine, f"s{i}", "Go on.", replace(warm, seed=seed))).text for i, seed in enumerate(seeds)]
    assert said[0] == said[2] != said[1]


async def test_stop_strings_and_aborts_end_a_sequential_answer(engine: EngineProcess, smollm2_dir: Path) -> None:
    await load(engine, smollm2_dir, batching=False)
    question = "What is the capital of France?"
    stopped = await ask(engine, "stopped", question, replace(GREEDY, stop=("ance is",)))
    assert (stopped.text, stopped.finish_reason) == ("The capital of Fr", FinishReason.STOP)

    async def stop_at_four(count: int) -> None:
        if count == 4:
            await engine.abort("running")
            await engine.abort("waiting")

    running, waiting = await asyncio.gather(
        ask(engine, "running", "Count to one hundred.", replace(GREEDY, max_tokens=300), stop_at_four),
        ask(engine, "waiting", question),
    )
    assert running.finish_reason is waiting.finish_reason is FinishReason.ABORT
    assert 4 <= running.usage.generated_tokens <= 8
    assert (waiting.text, waiting.usage.generated_tokens) == ("", 0)
    assert (await ask(engine, "next", question)).text == "The capital of France is Paris."


async def test_the_guards_stand_before_sequential_answers_too(engine: EngineProcess, tiny: dict[str, Path]) -> None:
    await load(engine, tiny["llama"], batching=False)
    with pytest.raises(RequestFailed, match="temperature must be a number between 0 and 2"):
        await ask(engine, "hot", "hello", replace(GREEDY, temperature=3.0))
    with pytest.raises(RequestFailed, match="seed must be a whole number"):
        await ask(engine, "seed", "hello", replace(GREEDY, seed=-1))


async def test_penalties_and_min_p_pick_the_tokens_that_a_batch_picks(
    engine: EngineProcess, tiny: dict[str, Path]
) -> None:
    said = {}
    params = [replace(GREEDY, presence_penalty=penalty, max_tokens=30) for penalty in (0.0, 2.0)]
    params.append(replace(GREEDY, temperature=1.5, min_p=1.0, presence_penalty=2.0, max_tokens=30))
    for batching in (False, True):
        await load(engine, tiny["llama"], batching=batching)
        said[batching] = [(await ask(engine, f"{batching} {i}", "Go on.", how)).text for i, how in enumerate(params)]
    assert said[False] == said[True]
    plain, penalised, only_the_likeliest = said[True]
    assert plain != penalised
    assert only_the_likeliest == penalised, "with min_p 1, sampling keeps the likeliest token only"


async def test_a_repository_sets_nothing_that_a_batch_does_not_do(
    engine: EngineProcess, tiny: dict[str, Path], tmp_path: Path
) -> None:
    advised = tmp_path / "advised"
    shutil.copytree(tiny["llama"], advised)
    advice = {"do_sample": True, "min_p": 1.0, "no_repeat_ngram_size": 1, "num_beams": 2}
    (advised / "generation_config.json").write_text(json.dumps(advice))
    said = {}
    for folder in (tiny["llama"], advised):
        await load(engine, folder, batching=False)
        params = (GREEDY, replace(GREEDY, temperature=1.5, seed=1))
        said[folder] = [(await ask(engine, f"{folder} {i}", "Go on.", how)).text for i, how in enumerate(params)]
    assert said[tiny["llama"]] == said[advised]
