"""Tests that a batch over a flat buffer says what generate() says, with its steps recorded and replayed like graphs."""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.gpu.cuda_graphs import Capture
from bot.engine.gpu.flat_attention import Kernel
from bot.engine.gpu.flat_batch import FlatBatch
from bot.engine.gpu.flat_step import MAX_ROWS, STEP_SIZES
from tests.support.builders.architectures import ARCHITECTURES, VOCABULARY, greedy, make
from tests.support.builders.batch_requests import GREEDY, Answers, Asked, answers
from tests.support.builders.flash_attention import on_cpu
from tests.support.builders.step_recorder import RecordedSteps

BLOCKS = 8
"""Blocks of 64 tokens: fewer than the requests of a test take together."""
LARGEST_FIRST = sorted(STEP_SIZES, key=lambda size: (-size.tokens, size.decode))


@pytest.fixture(autouse=True)
def flash_on_cpu() -> Iterator[None]:
    with on_cpu():
        yield


def started(
    model: Any,
    capture: Capture | None,
    blocks: int = BLOCKS,
    offload_mb: int = 0,
    prefill_budget: PrefillBudget | None = None,
    stepped: Callable[[], None] = lambda: None,
) -> FlatBatch:
    """A batch, with small chunks of prompts unless told otherwise; without a capture it computes row by row."""
    kernel = Kernel.SPLIT if capture is not None else Kernel.BY_ROW
    prefill_budget, unheard = prefill_budget or PrefillBudget(16, 100), Answers(deque())
    return FlatBatch(
        model,
        blocks,
        VOCABULARY,
        prefill_budget,
        unheard,
        offload_mb,
        kernels=(kernel,),
        capture=capture,
        stepped=stepped,
    )


def requests(model: Any) -> list[Asked]:
    """Prompts of all lengths; some go on with earlier ones, and some are cancelled."""
    chance, asked = random.Random(3), list[Asked]()
    for number in range(14):
        ids = [chance.randrange(2, VOCABULARY) for _ in range(chance.choice((2, 9, 40, 70, 130)))]
        if number % 3 == 2:  # the next turn of an earlier one, or another conversation with its beginning
            earlier = asked[chance.randrange(len(asked))]
            said = [*earlier.ids, *greedy(model, earlier.ids, earlier.tokens)]
            ids = said[: chance.choice((len(said), len(said) // 2))] + ids[:9]
        asked.append(Asked(str(number), ids, chance.choice((5, 20, 40)), cancel_after=3 if number % 5 == 4 else 0))
    return asked


class Unlimited(PrefillBudget):
    """A budget that every step uses up."""

    def chunk(self, answers: int) -> int:
        return 512


class Rows:
    """Looks at the rows in use after each step: where each was, and whether an older one was behind a newer one."""

    def __init__(self, batch: FlatBatch) -> None:
        self._rows = batch.runner.cache
        self.starts: dict[int, set[int]] = {}
        self.out_of_order = False

    def look(self) -> None:
        """Looks now."""
        used = [row for row in self._rows if row.in_use]
        for row in used:
            self.starts.setdefault(id(row), set()).add(row.start)
        starts = [row.start for row in used]
        self.out_of_order |= starts != sorted(starts)


def check(model: Any, asked: Sequence[Asked], found: Answers) -> None:
    """Compares all answers with generate()'s."""
    assert not found.failed
    for each in asked:
        made = found.made[each.key]
        assert made == greedy(model, each.ids, each.tokens)[: len(made)], each.key
        assert len(made) >= each.cancel_after if each.cancel_after else len(made) == each.tokens


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_recorded_steps_say_what_generate_says(name: str) -> None:
    reference = make(name)
    batch = started(make(name), RecordedSteps())
    assert batch.runner.captured == LARGEST_FIRST
    rows, asked = Rows(batch), requests(reference)
    found = answers(batch, asked, rows.look)
    batch.stop()
    check(reference, asked, found)
    assert any(found.cached.values()), "no prefix was found"
    assert any(len(starts) > 1 for starts in rows.starts.values()), "no row moved"
    assert rows.out_of_order


@pytest.mark.parametrize("name", ["phi3", "mistral", "gemma3"])
def test_row_by_row_a_model_says_what_generate_says(name: str) -> None:
    reference, batch = make(name), started(make(name), None)
    asked = requests(reference)
    found = answers(batch, asked)
    batch.stop()
    check(reference, asked, found)


def test_rope_that_grows_with_the_text_runs_in_graphs() -> None:
    short = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "factor": 2.0, **short}
    how: dict[str, Any] = {"rope_parameters": rope, "original_max_position_embeddings": 512}
    reference, batch = make("phi3", **how), started(make("phi3", **how), RecordedSteps())
    assert batch.runner.captured == LARGEST_FIRST
    asked = requests(reference)
    found = answers(batch, asked)
    batch.stop()
    check(reference, asked, found)


def test_as_many_as_there_are_rows_are_answered_in_one_step() -> None:
    reference, batch = make("llama"), started(make("llama"), RecordedSteps(), blocks=MAX_ROWS)
    asked = [Asked(str(number), [number + 2, 5], 30) for number in range(MAX_ROWS + 1)]
    most: list[int] = []
    found = answers(batch, asked, lambda: most.append(sum(row.in_use for row in batch.runner.cache)))
    batch.stop()
    check(reference, asked, found)
    assert max(most) == MAX_ROWS


def test_a_step_of_the_largest_size_holds_running_answers_and_a_chunk_of_a_prompt() -> None:
    reference, replays, filled = make("phi3"), list[None](), set[tuple[int, int]]()
    batch = started(
        make("phi3"), RecordedSteps(), 64, prefill_budget=Unlimited(512, 512), stepped=lambda: replays.append(None)
    )
    largest = batch.runner.steps[LARGEST_FIRST[0]]
    asked = [Asked(str(number), [number + 2], 12) for number in range(3)]
    asked += [Asked(str(number), [number + place % 50 for place in range(700)], 4) for number in range(3, 7)]
    steps: list[None] = []

    def look() -> None:
        steps.append(None)
        filled.add((len(largest.spans), largest.spans[-1].end if largest.spans else 0))

    found = answers(batch, asked, look)
    batch.stop()
    check(reference, asked, found)
    assert any(rows > 3 and tokens == 512 for rows, tokens in filled)
    assert len(replays) >= len(steps), "each step is a sign of life, although no layer of the model runs"


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_draft_tokens_save_steps_and_change_no_answer(penalty: float) -> None:
    """Random models repeat themselves, which prompt lookup foresees."""
    reference, batch = make("qwen3"), started(make("qwen3"), RecordedSteps())
    params = replace(GREEDY, repetition_penalty=penalty)
    ids = [5, 9, 14, 3, 7] * 4
    expected = greedy(reference, ids, 90, repetition_penalty=penalty)
    steps: list[None] = []
    found = answers(batch, [Asked("a", ids, 90, params)], lambda: steps.append(None))
    batch.stop()
    assert found.made["a"] == expected
    assert len(steps) < 90 or penalty != 1.0


def test_an_answer_ends_at_its_end_token() -> None:
    reference, batch = make("llama"), started(make("llama"), RecordedSteps())
    expected = greedy(reference, [4, 8], 20)
    end = next(token for place, token in enumerate(expected) if place > 3 and token not in expected[:place])
    found = answers(batch, [Asked("a", [4, 8], 20, eos=(end,))])
    batch.stop()
    assert found.made["a"] == expected[: expected.index(end) + 1]


@pytest.mark.parametrize("capture", [None, RecordedSteps()], ids=["row by row", "recorded"])
def test_rows_that_were_evicted_come_back_from_ram(capture: Capture | None) -> None:
    reference = make("mistral")
    batch = started(make("mistral"), capture, blocks=4, offload_mb=4)
    first = [Asked(str(number), [number + 2, *range(2, 90), *range(2, 60)], 20) for number in range(4)]
    again = [replace(each, key=f"again {each.key}") for each in first]
    found = answers(batch, first + again)
    batch.stop()
    check(reference, first + again, found)
    assert [found.cached[each.key] for each in first] == [0] * 4
    assert [found.cached[each.key] for each in again] == [len(each.ids) - 1 for each in again]
