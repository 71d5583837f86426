"""Tests a megabyte in one question: rejected by its length, or built into a prompt while answers run."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import pytest_asyncio
from transformers import BatchEncoding

from bot.engine.client.process import EngineProcess
from bot.engine.text.literal_matcher import PART
from bot.engine.text.prompts import PromptBuilder
from bot.types.errors import RequestFailed
from bot.types.messages import FinishReason
from tests.support.builders.engine_requests import GREEDY, ask, load
from tests.support.builders.prompt_tokenizers import CHATML, bot, byte_level, user
from tests.support.builders.prompt_tokenizers import ask as asked

pytest_plugins = ["tests.support.fixtures.engine"]

FILES = "Where are the keys, and who wrote this? <|im_end|> " * 20_000
"""One megabyte."""
WINDOW = 300_000
"""A window that a megabyte may fit by its length, but does not fit by its token count."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def roomy(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineProcess]:
    """An engine whose model has a large context window."""
    folder = tmp_path_factory.mktemp("roomy") / "llama"
    shutil.copytree(tiny["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": WINDOW}))
    process = EngineProcess()
    await load(process, folder)
    yield process
    await process.close()


@pytest.mark.fault(56)
@pytest.mark.timeout(600)
@pytest.mark.asyncio(loop_scope="module")
async def test_answers_go_on_while_a_long_prompt_is_built(roomy: EngineProcess) -> None:
    times: list[float] = []
    going, clock = asyncio.Event(), asyncio.get_running_loop().time

    async def note(number: int) -> None:
        times.append(clock())
        if number == 10:
            going.set()

    params = replace(GREEDY, max_tokens=100_000, repetition_penalty=1.1)
    running = asyncio.create_task(ask(roomy, "running", "Where are the keys?", params, note))
    await going.wait()
    began = clock()
    with pytest.raises(RequestFailed, match="and there is room for"):
        await ask(roomy, "long", FILES)
    took = clock() - began
    assert not running.done(), "it ended too early to show anything"
    await roomy.abort("running")
    assert (await running).finish_reason is FinishReason.ABORT
    quarters = {int(4 * (at - began) / took) for at in times if began <= at}
    assert quarters >= {0, 1, 2, 3}, "words came all the time, and not all at its end"


@pytest.mark.fault(56)
@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_can_be_stopped_while_its_prompt_is_built(roomy: EngineProcess) -> None:
    question = asyncio.create_task(ask(roomy, "stopped", "Where are the keys? " * 6000))
    other = asyncio.create_task(ask(roomy, "other", "Who wrote this?"))
    await asyncio.sleep(0)  # both are sent
    await roomy.abort("stopped")
    stopped = await question
    assert (stopped.text, stopped.finish_reason) == ("", FinishReason.ABORT)
    assert (await other).text
    assert (await roomy.stats()).running == 0


@pytest.mark.fault(56)
def test_a_text_that_cannot_fit_by_its_length_is_refused_without_the_tokenizer() -> None:
    tokenizer = byte_level(CHATML)
    builder = PromptBuilder(tokenizer, "", 4096)
    for prompt in (asked(user(FILES)), asked(user("Hi"), system=FILES), asked(user("Hi"), prefix=FILES)):
        with (
            patch.object(tokenizer, "encode", side_effect=AssertionError("it was tokenised")),
            pytest.raises(RequestFailed, match=r"take at least [\d,]+ tokens, and there is room for 3,996 .*shorten"),
        ):
            builder.build(prompt, 100)


@pytest.mark.fault(56)
@pytest.mark.parametrize("text", [FILES, "<|im_end|>" * 100_000, "\n" * 3 + "a\n" * 500_000, "é" * 1_000_000])
def test_a_text_is_tokenised_only_until_it_cannot_fit(text: str) -> None:
    tokenizer = byte_level(CHATML)
    room = len(text) // max(map(len, tokenizer.get_vocab())) + 10  # the length alone does not decide
    builder = PromptBuilder(tokenizer, "", room + 100)
    with patch.object(tokenizer, "encode", side_effect=tokenizer.encode) as encode, pytest.raises(RequestFailed):
        builder.build(asked(user(text)), 100)
    seen = [len(call.args[0]) for call in encode.call_args_list]
    assert max(seen) < 2 * PART
    assert sum(seen) < len(text)


@pytest.mark.fault(56)
def test_old_turns_that_cannot_fit_are_not_tokenised() -> None:
    tokenizer = byte_level(CHATML)
    builder = PromptBuilder(tokenizer, "", 2000)
    turns = [turn for number in range(100) for turn in (user(f"Q{number} " + "word " * 2000), bot("Yes. " * 2000))]
    with patch.object(tokenizer, "encode", side_effect=tokenizer.encode) as encode:
        built = builder.build(asked(*turns, user("And now?")), 100)
    assert built.dropped_turns == len(turns)
    assert sum(len(call.args[0]) for call in encode.call_args_list) < sum(len(turn.text) for turn in turns) / 4


def test_turns_that_are_out_of_reach_go_in_coarse_steps() -> None:
    builder = PromptBuilder(byte_level(CHATML), "", 800)
    turns = [turn for number in range(300) for turn in (user(f"Q {number}?"), bot("capital France Paris " * 4))]
    first = [builder.build(asked(*turns[:end]), 100).dropped_turns for end in range(301, len(turns), 2)]
    assert first == sorted(first)
    assert len(set(first)) < len(first) / 2


def test_a_long_text_that_fits_is_what_the_library_makes_of_it() -> None:
    tokenizer = byte_level(CHATML)
    text = ("The capital of France is Paris. naïve café 東京\n" * 2000).strip()
    built = PromptBuilder(tokenizer, "", 10**6).build(asked(user(text)), 100)
    theirs = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
    assert isinstance(theirs, BatchEncoding)
    assert built.ids == list(theirs["input_ids"])
