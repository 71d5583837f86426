"""Tests that n-gram speculation changes the speed of an answer, but never its text."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bot.engine.batching.prompt_lookup import MIN_PROPOSED, PromptLookup
from bot.engine.batching.row_batch import BatchRequest
from bot.engine.batching.row_cache import Shape
from bot.engine.batching.sampling import RequestSampler
from bot.engine.cpu.kv_cache import KVCache, SlabSequence
from bot.types.messages import SamplingParams
from tests.support.builders.engine_requests import GREEDY, Reference
from tests.support.builders.in_process_engine import Bench

pytest_plugins = ["tests.support.fixtures.engine"]


def test_what_followed_the_same_three_ids_last_time_is_guessed() -> None:
    lookup = PromptLookup()
    assert lookup.propose([1, 2, 3, 4, 5, 9, 1, 2, 3], 4) == [4, 5, 9, 1]
    assert lookup.propose([1, 2, 3, 4, 5, 9, 1, 2, 3, 7], 4) == []
    assert lookup.propose([1, 2, 3, 4, 5, 9, 1, 2, 3, 7, 1, 2, 3], 4) == [7, 1, 2, 3]


def test_guesses_that_are_no_good_are_given_up() -> None:
    lookup = PromptLookup()
    lookup.learn(MIN_PROPOSED, MIN_PROPOSED // 2)
    assert lookup.propose([5, 6, 7, 5, 6, 7], 1) == [5]
    lookup.learn(10 * MIN_PROPOSED, 0)
    assert lookup.propose([5, 6, 7, 5, 6, 7], 1) == []


@pytest.mark.parametrize(
    ("chosen", "left", "made", "finished"),
    [
        ([10, 11, 12, 13], 9, [10, 11, 12, 13], False),
        ([10, 99, 12, 13], 9, [10, 99], False),
        ([77, 11, 12, 13], 9, [77], False),
        ([10, 2, 12, 13], 9, [10, 2], True),
        ([10, 11, 12, 13], 4, [10, 11, 12, 13], True),
    ],
    ids=["all right", "the second wrong", "none right", "the end of the answer", "its last tokens"],
)
def test_tokens_count_up_to_the_first_wrong_guess(
    chosen: list[int], left: int, made: list[int], finished: bool
) -> None:
    sampler = RequestSampler(SamplingParams(repetition_penalty=1.1, max_tokens=9), 100)
    session: BatchRequest[SlabSequence] = BatchRequest(
        "k", [5, 6, 7], [5, 6, 7, 8], left, frozenset({2}), sampler, draft=[10, 11, 12]
    )
    session.row = KVCache(Shape(1, 1, 1, torch.float32), 1).allocate([5], 9)
    session.row.ids = [5, 6, 7, 8, 10, 11, 12]
    for history in session.histories():
        sampler.seen(*history, torch.device("cpu"))
    out = session.take(chosen)
    assert (out.tokens, out.finished) == (made, finished)
    assert session.ids == [5, 6, 7, 8, *made]
    assert session.row.ids == session.ids[:-1]
    seen = sampler.seen(session.prompt, session.ids[3:], torch.device("cpu"))
    assert seen.tolist() == session.ids, "the penalty is for what was said, not for what was guessed"


def test_ids_that_were_only_guessed_are_unseen_again() -> None:
    sampler, cpu = RequestSampler(SamplingParams(repetition_penalty=1.1, max_tokens=9), 100), torch.device("cpu")
    assert sampler.seen([3, 1, 1], [7, 8, 9], cpu).tolist() == [1, 3, 7, 8, 9]
    sampler.truncate(1)
    assert sampler.seen([3, 1, 1], [7, 5], cpu).tolist() == [1, 3, 7, 5]


CODE = """Fix the typo and give me the whole code again:
```python
def add(first, second):
    retrun first + second

def sub(first, second):
    return first - second
```"""


def test_with_guesses_an_answer_is_what_generate_says_in_fewer_steps(smollm2_dir: Path) -> None:
    bench = Bench(smollm2_dir)
    steps = 0

    def count(module: object, args: object) -> None:
        nonlocal steps
        steps += 1

    bench.model.register_forward_pre_hook(count)
    params = replace(GREEDY, max_tokens=30)
    reference = Reference(smollm2_dir)
    said, tokens = reference.answer(CODE, params)
    assert bench.whole(1, CODE, params) == said
    assert steps < 0.6 * tokens, "it quotes what was asked"
    params = replace(params, repetition_penalty=1.1)
    assert bench.whole(2, CODE, params) == reference.answer(CODE, params)[0]
    bench.generator.close()
