"""Tests requests that would crash a batch: each fails alone, with a sentence, while four others generate."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.engine.client.process import EngineProcess
from bot.engine.client.request_validation import PromptLimits, check_params, check_prompt
from bot.types.errors import EngineError, RequestFailed
from bot.types.messages import SamplingParams
from tests.support.builders.engine_requests import GREEDY, ask, load

pytest_plugins = ["tests.support.fixtures.engine"]

DEADLY: list[tuple[dict[str, Any], str]] = [
    ({"temperature": float("nan")}, "temperature must be a number between 0 and 2"),
    ({"temperature": float("inf")}, "temperature must be a number between 0 and 2"),
    ({"temperature": -0.5}, "temperature must be a number between 0 and 2"),
    ({"temperature": "hot"}, "temperature must be a number between 0 and 2"),
    ({"top_p": 0.0}, "top_p must be greater than 0 and at most 1"),
    ({"top_p": 1.5}, "top_p must be a number between 0 and 1"),
    ({"top_p": float("nan")}, "top_p must be a number between 0 and 1"),
    ({"top_k": -1}, "top_k must be 0 (off) or a positive whole number"),
    ({"top_k": 2.5}, "top_k must be 0 (off) or a positive whole number"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be a number between 0.5 and 2"),
    ({"repetition_penalty": float("nan")}, "repetition_penalty must be a number between 0.5 and 2"),
    ({"repetition_penalty": True}, "repetition_penalty must be a number between 0.5 and 2"),
    ({"min_p": float("nan")}, "min_p must be a number between 0 and 1"),
    ({"presence_penalty": 3.0}, "presence_penalty must be a number between -2 and 2"),
    ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1"),
    ({"max_tokens": 8.0}, "max_tokens must be a whole number of at least 1"),
    ({"max_tokens": 512}, "must be smaller than the context window of 512 tokens"),
    ({"max_tokens": 10**9}, "must be smaller than the context window of 512 tokens"),
    ({"seed": 7}, "A seed needs sequential mode"),
    ({"stop": ("",)}, "stop takes at most 16 texts of 1 to 100 characters"),
]

HARMLESS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 5e-324},
    {"temperature": 1, "top_p": 1, "repetition_penalty": 1},
    {"temperature": 1.0, "top_k": 10**6},
    {"temperature": 1.0, "top_k": 0},
    {"temperature": 2.0, "top_p": 1e-9},
    {"temperature": 2.0, "min_p": 1.0, "presence_penalty": 2.0},
]


@pytest.mark.asyncio(loop_scope="session")
async def test_what_would_kill_the_batch_fails_alone(engine: EngineProcess, tiny: dict[str, Path]) -> None:
    await load(engine, tiny["llama"], kv_cache_mb=1)
    long = replace(GREEDY, max_tokens=400, repetition_penalty=1.1)
    alone = await ask(engine, "alone", "Where are the keys?", long)
    others = [asyncio.create_task(ask(engine, f"other {i}", "Where are the keys?", long)) for i in range(4)]
    await asyncio.sleep(0)  # the four are sent before what follows

    for number, (change, sentence) in enumerate(DEADLY):
        with pytest.raises(RequestFailed) as failure:
            await ask(engine, f"deadly {number}", "hello", replace(GREEDY, **change))
        assert sentence in str(failure.value), change
    with pytest.raises(RequestFailed, match="other 0 is running already"):
        await ask(engine, "other 0", "hello")
    with pytest.raises(RequestFailed, match="shorten them"):
        await ask(engine, "too long", "far too long " * 600)
    with pytest.raises(EngineError, match="while answers are being generated"):
        await load(engine, tiny["phi"])
    assert (await engine.stats()).running == 4, "the four ended before everything was tried"

    for number, change in enumerate(HARMLESS):
        await ask(engine, f"harmless {number}", "hello", replace(GREEDY, max_tokens=4, **change))
    assert [(await other).text for other in others] == [alone.text] * 4
    stats = await engine.stats()
    assert (stats.running, stats.free_blocks) == (0, stats.blocks)


@pytest.mark.parametrize(
    ("ids", "max_tokens", "sentence"),
    [
        ([], 10, "The prompt is empty"),
        ([1, 100], 10, "outside the model's vocabulary (0 to 99)"),
        ([-1, 5], 10, "outside the model's vocabulary (0 to 99)"),
        ([1] * 60, 41, "exceed the context window of 100 tokens"),
        ([1] * 60, 30, "exceed the KV cache of 80 tokens"),
    ],
)
def test_a_prompt_must_fit_the_model(ids: list[int], max_tokens: int, sentence: str) -> None:
    with pytest.raises(RequestFailed) as failure:
        check_prompt(ids, max_tokens, PromptLimits(vocabulary=100, context_window=100, cache_tokens=80))
    assert sentence in str(failure.value)


def test_what_fits_passes() -> None:
    check_params(SamplingParams())
    check_params(SamplingParams(seed=5, temperature=0, top_p=1, stop=("a",)))
    check_prompt([0, 99], 78, PromptLimits(vocabulary=100, context_window=100, cache_tokens=80))
