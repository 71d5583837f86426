"""Rows: what they hold is what was computed, what is still there is not computed again, and there is room enough."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from bot.engine.batch import CannotBatch
from bot.engine.row_attention import NAME, Part, forward, shape_of, switch
from bot.engine.row_batch import share
from bot.engine.rows import BLOCK, Row, Rows, Shape, blocks_for
from bot.models.failures import Unrecoverable
from tests.tiny_models import KINDS

pytest_plugins = ["tests.engine_fixtures"]

SHAPE = Shape(layers=2, heads=1, width=4, dtype=torch.float32)


def hold(rows: Rows, ids: Sequence[int], most: int | None = None) -> Row:
    """A row that holds all of `ids`, each with a key and value of its own."""
    row = rows.take([*ids, 0], most or len(ids) + 1)
    rows.grow(row, len(ids))
    for layer in row.held:
        layer[0, 0, : len(ids), 0] = torch.tensor(ids, dtype=torch.float32)
    row.ids = list(ids)
    return row


def held(row: Row) -> list[int]:
    """What stands in its last layer."""
    return [int(key) for key in row.held[-1][0, 0, : len(row.ids), 0]]


def test_the_next_turn_goes_on_in_its_row() -> None:
    rows = Rows(SHAPE, 8)
    row = hold(rows, range(1, 41))
    rows.rest(row)
    again = rows.take([*range(1, 41), 77, 78], 100)
    assert again is row
    assert again.ids == list(range(1, 41))


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    rows = Rows(SHAPE, 8)
    rows.rest(hold(rows, range(1, 41)))
    assert rows.take(range(1, 41), 50).ids == list(range(1, 40))


def test_another_conversation_with_the_same_beginning_gets_a_copy_of_it() -> None:
    rows = Rows(SHAPE, 8)
    row = hold(rows, range(1, 101))
    rows.rest(row)
    other = rows.take([*range(1, 31), *range(500, 550)], 100)
    assert other is not row
    assert other.ids == held(other) == list(range(1, 31))
    assert row.ids == held(row) == list(range(1, 101))


def test_what_is_being_written_is_copied_and_never_taken() -> None:
    rows = Rows(SHAPE, 8)
    row = hold(rows, range(1, 101))
    other = rows.take([*range(1, 101), 7], 110)
    assert other is not row
    assert other.ids == held(other) == list(range(1, 101))


def test_who_rested_longest_goes_first_and_nobody_who_is_in_use() -> None:
    rows = Rows(SHAPE, 4)
    kept = hold(rows, [9] * (BLOCK - 1))
    rested = [hold(rows, [first] * (BLOCK - 1)) for first in (1, 2, 3)]
    for row in rested:
        rows.rest(row)
    new = rows.take([4] * 2 * BLOCK, 2 * BLOCK)
    assert new.blocks == 2
    assert rows._rows == [kept, rested[2], new]


def test_a_row_that_is_taken_over_is_cut_to_what_was_asked_for() -> None:
    rows = Rows(SHAPE, 10)
    rows.rest(hold(rows, range(1, 6 * BLOCK)))
    row = rows.take([*range(1, 4 * BLOCK), 0], 4 * BLOCK)
    assert row.blocks == 4
    assert held(row) == list(range(1, 4 * BLOCK))


def test_a_row_has_room_for_its_prompt_and_grows_by_a_quarter_up_to_what_it_may_come_to_hold() -> None:
    rows = Rows(SHAPE, 20)
    row = rows.take([1] * 8 * BLOCK, 11 * BLOCK)
    sizes = [row.blocks]
    for tokens in (8 * BLOCK + 1, 10 * BLOCK + 1, 11 * BLOCK):
        rows.grow(row, tokens)
        sizes.append(row.blocks)
    assert sizes == [8, 10, 11, 11]


def test_what_rows_take_is_what_the_process_takes() -> None:
    """And no more, however long they were: what is let go of is the system's again."""
    shape, chance, resident = Shape(30, 3, 64, torch.float32), random.Random(3), psutil.Process().memory_info
    rows, before, blocks = Rows(shape, 178), resident(), 0
    for turn in range(60):
        running: list[Row] = []
        while sum(row.blocks for row in running) < 60 and len(running) < 8:
            tokens = int(1500 ** chance.random()) + 5
            row = rows.take([10 * turn + len(running)] * tokens, tokens + 200)
            rows.grow(row, tokens + chance.randrange(150))
            row.held.fill_(1.0)
            row.ids = [10 * turn + len(running)] * tokens
            running.append(row)
        for row in running:
            rows.rest(row)
        blocks = max(blocks, sum(row.blocks for row in rows._rows))
    assert blocks > 100
    assert resident().rss - before.rss < 1.1 * shape.room(1).nbytes * blocks
    assert resident().shared - before.shared < 50e6, "or it would be taken for weights that are mapped from files"


def test_no_more_memory_from_the_system_is_a_want_of_memory() -> None:
    with pytest.raises(MemoryError, match="gives no more memory to the KV cache"):
        Shape(1 << 20, 1 << 10, 1 << 10, torch.float32).room(1 << 10)


def test_a_prompt_that_was_stopped_early_rests_with_what_it_holds() -> None:
    rows = Rows(SHAPE, 20)
    others = [hold(rows, [number] * 4 * BLOCK) for number in (1, 2)]
    for row in others:
        rows.rest(row)
    stopped = rows.take([3] * 10 * BLOCK, 12 * BLOCK)
    assert stopped.blocks == 10
    stopped.ids = [3] * BLOCK
    rows.rest(stopped)
    assert stopped.blocks == 1
    rows.take([4] * 11 * BLOCK, 11 * BLOCK)
    assert all(row in rows._rows for row in (*others[1:], stopped))


def test_a_beginning_is_found_also_where_there_is_no_room_for_a_copy() -> None:
    rows = Rows(SHAPE, 16)
    source = hold(rows, range(1, 10 * BLOCK))
    rows.rest(source)
    row = rows.take([*range(1, 2 * BLOCK), *[0] * 6 * BLOCK], 8 * BLOCK)
    assert row is source
    assert row.ids == held(row) == list(range(1, 2 * BLOCK))


def test_more_than_there_is_is_a_want_of_memory() -> None:
    rows = Rows(SHAPE, 2)
    with pytest.raises(MemoryError, match="not enough memory"):
        rows.grow(rows.take([1], 5 * BLOCK), 5 * BLOCK)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 150), st.integers(0, 100), st.booleans()), max_size=30))
def test_whatever_is_asked_rows_hold_what_they_say_and_stay_within_their_blocks(
    asked: list[tuple[int, int, int, bool]],
) -> None:
    rows = Rows(SHAPE, 12)
    running: list[Row] = []
    needs: dict[int, int] = {}
    for conversation, prompt, answer, ends in asked:
        ids = [conversation + 1 if place > 20 else 9 for place in range(prompt)]
        need = blocks_for(prompt + answer)
        if sum(needs.values()) + need <= 12:  # as Batching admits
            row = rows.take(ids, prompt + answer)
            assert row.ids == held(row) if row.ids else True
            assert row.ids == ids[: len(row.ids)]
            assert len(row.ids) < len(ids)
            rows.grow(row, prompt + answer)
            for layer in row.held:
                layer[0, 0, : prompt + answer, 0] = torch.tensor([*ids, *range(answer)], dtype=torch.float32)
            row.ids = [*ids, *range(answer)]
            running.append(row)
            needs[id(row)] = need
        if ends and running:
            row = running.pop(0)
            del needs[id(row)]
            rows.rest(row)
        assert sum(row.blocks for row in rows._rows) <= 12
        assert rows.free == 12 - sum(row.blocks for row in running)
        for row in rows._rows:
            assert row.ids == held(row)


@given(st.lists(st.integers(2, 3000), max_size=16), st.integers(16, 512))
def test_a_chunk_is_shared_whole_and_the_oldest_always_gets_on(ahead: list[int], budget: int) -> None:
    counts = share(ahead, budget)
    assert sum(counts) == min(sum(ahead), budget)
    assert all(0 <= count <= left for count, left in zip(counts, ahead, strict=True))
    if ahead:
        assert counts[0] >= min(ahead[0], budget // 2)


def test_short_prompts_do_not_wait_for_a_long_one() -> None:
    assert share([2000, 700, 30, 20], 128) == [64, 14, 30, 20]


def loaded(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@torch.inference_mode()
def in_steps(model: PreTrainedModel, texts: Sequence[Sequence[int]], counts: Sequence[int]) -> torch.Tensor:
    """The logits after texts that go through the model side by side, so many tokens of each at a time."""
    rows = Rows(shape_of(model), 16)
    mine = [rows.take(text, len(text)) for text in texts]
    for count in counts:
        parts = [Part(row, text[len(row.ids) : len(row.ids) + count]) for row, text in zip(mine, texts, strict=True)]
        for part in parts:
            rows.grow(part.row, len(part.row.ids) + count)
        logits = forward(model, parts)
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_batch_and_in_chunks_a_model_says_what_it_says_alone(tiny: dict[str, Path], kind: str) -> None:
    model = loaded(tiny[kind])
    texts = [[(place * step) % model.config.vocab_size for place in range(90)] for step in (3, 5, 11)]
    with torch.inference_mode():
        expected = torch.cat([model(torch.tensor([text])).logits[:, -1] for text in texts])
    switch(model, model.config.vocab_size)
    assert model.config._attn_implementation == NAME
    found = in_steps(model, texts, [1, 60, 2, 1, 26])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_sliding_window_is_kept() -> None:
    config = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
    )
    torch.manual_seed(3)
    model: Any = MistralForCausalLM(config).eval()
    text = [(place * 7) % 64 for place in range(60)]
    with torch.inference_mode():
        expected = model(torch.tensor([text])).logits[:, -1]
    switch(model, 64)
    torch.testing.assert_close(in_steps(model, [text], [20, 1, 20, 18, 1]), expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_says_something_else_with_rows_keeps_its_own_attention(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(tiny["llama"])
    monkeypatch.setattr("bot.engine.row_attention._mask", lambda *_: None)
    with pytest.raises(CannotBatch, match="it says something else"):
        switch(model, model.config.vocab_size)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("can't allocate memory"), MemoryError),
        (RuntimeError("CUDA error: unspecified launch failure"), Unrecoverable),
        (TypeError("forward() got an unexpected keyword argument 'step'"), CannotBatch),
    ],
)
def test_what_goes_wrong_with_rows_is_told_apart(
    tiny: dict[str, Path], error: Exception, raised: type[Exception]
) -> None:
    model = loaded(tiny["llama"])

    def fail(module: object, args: object, given: dict[str, Any]) -> None:
        if "step" in given:
            raise error

    model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(raised):
        switch(model, model.config.vocab_size)
    assert model.config._attn_implementation == "sdpa"
