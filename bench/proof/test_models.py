"""Tests Phi-4, Phi-2 and Mistral at full width in the engine: loading, memory, equal answers, end tokens, window
edge."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from safetensors import safe_open

from bot.engine.client.process import EngineProcess
from bot.engine.text.prompts import PromptBuilder
from bot.models.loading import load
from bot.models.model_directory import weight_files
from bot.types.errors import ModelError, RequestFailed
from bot.types.messages import FinishReason, Prompt
from tests.support.builders.engine_requests import GREEDY, ask, prompt
from tests.support.builders.full_width_models import tokenizer_of
from tests.support.builders.full_width_requests import (
    QUESTIONS,
    TOKENS,
    Expected,
    Grown,
    Written,
    estimated,
    expect,
    load_measured,
    quiet,
)

pytest_plugins = ["tests.support.fixtures.full_width_models"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

BRIEF = replace(GREEDY, max_tokens=TOKENS)
SMALL_WINDOW = 512


@pytest.fixture(scope="module")
def expected(written: Written) -> Expected:
    return expect(written, dtype="float32")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def in_float32(engine: EngineProcess, written: Written, expected: Expected, tiny_dir: Path) -> Grown:
    return await load_measured(engine, tiny_dir, written.source(dtype="float32"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def in_bfloat16(engine: EngineProcess, written: Written, tiny_dir: Path) -> Grown:
    return await load_measured(engine, tiny_dir, written.source(dtype="bfloat16"))


async def test_every_weight_is_the_one_in_the_files(written: Written) -> None:
    names = weight_files(written.folder)
    assert len(names) >= 3
    parameters = dict(load(written.source(dtype="float32"), quiet).model.named_parameters())
    for file in names:
        with safe_open(written.folder / file, framework="pt") as tensors:
            stored = tensors.keys()
            for name in stored:
                loaded = parameters.pop(name)
                assert loaded.dtype == torch.float32
                assert torch.equal(loaded[-3:], tensors.get_tensor(name)[-3:].float()), name
    assert not parameters


async def test_what_is_missing_or_does_not_fit_is_told_in_a_sentence(written: Written, tmp_path: Path) -> None:
    for file in written.folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((written.folder / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": config["intermediate_size"] + 64}))
    source = replace(written.source(dtype="bfloat16"), path=str(tmp_path))
    with pytest.raises(ModelError, match=r"^The weights in \S+ do not belong to its config.json; .*\.$"):
        load(source, quiet)
    names = weight_files(tmp_path)
    (tmp_path / names[1]).unlink()
    with pytest.raises(ModelError, match=rf"^\S+ lacks 1 of {len(names)} weight files, such as {names[1]}\.$"):
        load(source, quiet)


async def test_float32_takes_what_was_estimated(written: Written, in_float32: Grown) -> None:
    assert (in_float32.model.dtype, in_float32.model.batching) == ("float32", True)
    assert in_float32.model.context_window == written.real.spec.context_window
    estimate = estimated(written, "float32")
    assert in_float32.model.weights_mb == pytest.approx(estimate, rel=0.02)
    assert estimate * 0.9 <= in_float32.resident_mb <= estimate * 1.1 + in_float32.model.kv_cache_mb


async def test_a_batch_says_what_generate_says(engine: EngineProcess, in_float32: Grown, expected: Expected) -> None:
    answers = await asyncio.gather(*(ask(engine, f"q{i}", said, BRIEF) for i, said in enumerate(QUESTIONS)))
    assert len({answer.usage.prompt_tokens for answer in answers}) == len(QUESTIONS)
    assert tuple((answer.text, answer.usage.generated_tokens) for answer in answers) == expected.answers
    second = await ask(engine, "second", expected.second_turn, BRIEF)
    assert (second.text, second.usage.generated_tokens) == expected.second
    assert second.usage.cached_tokens >= answers[1].usage.prompt_tokens - 16


async def test_an_answer_ends_at_every_token_that_ends_one(
    engine: EngineProcess, written: Written, in_float32: Grown
) -> None:
    """And the end token is not shown. Two models have a second way to end: another token, or a stop text."""
    answer = await ask(engine, "red", prompt("Where?", prefix="the red"), BRIEF)
    assert (answer.text, answer.finish_reason) == (" green blue", FinishReason.STOP)
    assert answer.usage.generated_tokens == 3
    other = {"phi-4": 2, "phi-2": 3}.get(written.real.name)
    if other is not None:
        answer = await ask(engine, "oak", prompt("Where?", prefix="the oak"), BRIEF)
        assert (answer.text, answer.finish_reason) == (" elm", FinishReason.STOP)
        assert answer.usage.generated_tokens == other


async def test_bfloat16_takes_what_was_estimated(written: Written, in_bfloat16: Grown) -> None:
    """Weights are packed, or mapped where they cannot be; then they become resident only on first use."""
    assert in_bfloat16.model.dtype == "bfloat16"
    estimate = estimated(written, "bfloat16")
    assert in_bfloat16.model.weights_mb == pytest.approx(estimate, rel=0.02)
    assert in_bfloat16.resident_mb <= estimate * 1.1 + in_bfloat16.model.kv_cache_mb


async def test_the_windows_edge(engine: EngineProcess, written: Written, in_bfloat16: Grown) -> None:
    """Accepts a prompt that leaves exactly max_tokens; rejects one more token."""
    window = written.real.spec.context_window
    assert in_bfloat16.model.context_window == window
    with pytest.raises(RequestFailed, match=f"there is room for {window - TOKENS:,} .context window {window:,}, less"):
        await ask(engine, "over", filling(written, window, 1), BRIEF)
    taken = asyncio.create_task(ask(engine, "taken", filling(written, window, 0), BRIEF))
    await engine.stats()  # by now the request was sent
    if window > 4096:  # too much computation for a test, so it is only started
        await engine.abort("taken")
        assert (await taken).finish_reason is FinishReason.ABORT
    else:
        assert (await taken).usage.prompt_tokens == window - TOKENS


async def test_the_edge_of_a_smaller_window(engine: EngineProcess, written: Written) -> None:
    """As above, with a whole answer from each model; one token more in a conversation drops its oldest turns."""
    window = SMALL_WINDOW
    await engine.load(written.source(dtype="bfloat16", context_window=window), quiet)
    answer = await ask(engine, "taken", filling(written, window, 0), BRIEF)
    assert (answer.usage.prompt_tokens, answer.usage.generated_tokens) == (window - TOKENS, TOKENS)
    with pytest.raises(RequestFailed, match=f"there is room for {window - TOKENS:,} .context window {window:,}, less"):
        await ask(engine, "over", filling(written, window, 1), BRIEF)
    older = filling(written, window, 1, "sea " * 40, "the sea")
    trimmed = await ask(engine, "trimmed", older, BRIEF)
    assert trimmed.usage.dropped_turns == 2
    assert trimmed.usage.prompt_tokens < window - TOKENS


def filling(written: Written, window: int, over: int, *before: str) -> Prompt:
    """A conversation that exceeds the window by `over` tokens; `before` are its earlier texts."""
    builder = PromptBuilder(tokenizer_of(written.real.name), written.real.spec.template, 10 * window)
    words = 1
    while missing := window - TOKENS + over - len(builder.build(prompt(*before, " ".join(["sea"] * words)), 1).ids):
        words += missing
    return prompt(*before, " ".join(["sea"] * words))
