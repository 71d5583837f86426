"""Tests the rows of the KV cache: contents, reuse of prefixes, eviction, and memory."""

import random
from collections.abc import Sequence

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bot.engine.batching.row_cache import BLOCK, Shape, blocks_for
from bot.engine.cpu.kv_cache import KVCache, Slab, SlabSequence

pytest_plugins = ["tests.support.fixtures.engine"]

SHAPE = Shape(layers=2, heads=1, width=4, dtype=torch.float32)


def hold(rows: KVCache, ids: Sequence[int], most: int | None = None) -> SlabSequence:
    """A row that holds all of `ids`, each with a key and value of its own."""
    row = rows.allocate([*ids, 0], most or len(ids) + 1)
    for layer in row.held:
        layer[0, : len(ids), 0] = torch.tensor(ids, dtype=torch.float32)
    row.ids = list(ids)
    return row


def held(row: SlabSequence) -> list[int]:
    """The contents of its last layer."""
    return [int(key) for key in row.held[-1][0, : len(row.ids), 0]]


def test_the_next_turn_goes_on_in_its_row() -> None:
    rows = KVCache(SHAPE, 8)
    row = hold(rows, range(1, 41))
    rows.release(row)
    again = rows.allocate([*range(1, 41), 77, 78], 100)
    assert again is row
    assert again.ids == list(range(1, 41))


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    rows = KVCache(SHAPE, 8)
    rows.release(hold(rows, range(1, 41)))
    assert rows.allocate(range(1, 41), 50).ids == list(range(1, 40))


def test_another_conversation_with_the_same_beginning_gets_a_copy_of_it() -> None:
    rows = KVCache(SHAPE, 8)
    row = hold(rows, range(1, 101))
    rows.release(row)
    other = rows.allocate([*range(1, 31), *range(500, 550)], 100)
    assert other is not row
    assert other.ids == held(other) == list(range(1, 31))
    assert row.ids == held(row) == list(range(1, 101))


def test_what_is_being_written_is_copied_and_never_taken() -> None:
    rows = KVCache(SHAPE, 8)
    row = hold(rows, range(1, 101))
    other = rows.allocate([*range(1, 101), 7], 110)
    assert other is not row
    assert other.ids == held(other) == list(range(1, 101))


def test_the_least_recently_used_is_evicted_first_and_none_in_use() -> None:
    rows = KVCache(SHAPE, 4)
    kept = hold(rows, [9] * (BLOCK - 1))
    rested = [hold(rows, [first] * (BLOCK - 1)) for first in (1, 2, 3)]
    for row in rested:
        rows.release(row)
    new = rows.allocate([4] * 2 * BLOCK, 2 * BLOCK)
    assert new.blocks == 2
    assert list(rows) == [kept, rested[2], new]


def test_the_source_of_a_copy_stays_for_the_copy_and_is_no_younger_for_it() -> None:
    """All prompts share a prefix, so copies could keep the oldest row forever."""
    rows = KVCache(SHAPE, 8)
    rested = [hold(rows, [9] * 20 + [first] * (2 * BLOCK - 21)) for first in (1, 2, 3)]
    for row in rested:
        rows.release(row)
    rows.release(rows.allocate([*[9] * 20, *[4] * BLOCK], 2 * BLOCK))
    assert list(rows)[:3] == rested
    rows.allocate([*[9] * 20, *[5] * BLOCK], 2 * BLOCK)
    assert list(rows)[:2] == [rested[0], rested[2]]


def test_a_system_that_promises_less_memory_at_once_gets_asked_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Short(Slab):
        def __init__(self, shape: Shape, places: int, blocks: int) -> None:
            asked.append(places)
            if places > 2:
                raise MemoryError
            super().__init__(shape, places, blocks)

    monkeypatch.setattr("bot.engine.cpu.kv_cache.Slab", Short)
    assert held(hold(KVCache(SHAPE, 40), range(1, 100))) == list(range(1, 100))
    assert asked == [16, 8, 4, 2]


def test_a_row_that_is_taken_over_is_cut_to_what_was_asked_for() -> None:
    rows = KVCache(SHAPE, 7)
    rows.release(hold(rows, range(1, 6 * BLOCK)))
    row = rows.allocate([*range(1, 4 * BLOCK), 0], 4 * BLOCK)
    assert row.blocks == rows.blocks - rows.free == 4
    assert held(row) == list(range(1, 4 * BLOCK))
    assert list(rows) == [row]


def test_a_conversation_that_outgrows_its_row_moves_to_a_longer_one() -> None:
    rows = KVCache(SHAPE, 20)
    row = hold(rows, range(1, 3 * BLOCK))
    rows.release(row)
    longer = rows.allocate([*range(1, 3 * BLOCK), 5, 6], 9 * BLOCK)
    assert longer.ids == held(longer) == list(range(1, 3 * BLOCK))
    assert list(rows) == [longer]
    assert longer.slab.blocks == 16


def test_two_conversations_with_a_long_beginning_in_common_keep_a_row_each() -> None:
    """In alternating turns, neither conversation loses its cached prefix to the other."""
    rows, found = KVCache(SHAPE, 40), []
    for turn in range(3):
        for ending in (1000, 2000):
            said = [*range(1, 400), *range(ending, ending + 200 + 20 * turn)]
            row = rows.allocate([*said, 0], 700)
            found.append(len(row.ids))
            row.ids = said
            rows.release(row)
    assert found == [0, 399, 599, 599, 619, 619]
    assert len(list(rows)) == 2


def test_what_rows_take_is_what_the_process_takes() -> None:
    """And no more, however long they were: freed memory goes back to the system."""
    shape, chance, resident = Shape(30, 3, 64, torch.float32), random.Random(3), psutil.Process().memory_info
    rows, before, blocks = KVCache(shape, 178), resident(), 0
    for turn in range(60):
        running: list[SlabSequence] = []
        while sum(row.blocks for row in running) < 60 and len(running) < 8:
            tokens = int(1500 ** chance.random()) + 5
            row = rows.allocate([10 * turn + len(running)] * tokens, tokens + 200)
            tokens += chance.randrange(150)
            row.held[:, :, :tokens] = 1.0
            row.ids = [10 * turn + len(running)] * tokens
            running.append(row)
        for row in running:
            rows.release(row)
        blocks = max(blocks, sum(row.blocks for row in rows))
    assert blocks > 100
    assert resident().rss - before.rss < 1.1 * shape.layers * shape.token_bytes * BLOCK * blocks
    assert resident().shared - before.shared < 50e6, "or it would be taken for weights that are mapped from files"


def test_no_more_memory_from_the_system_is_a_want_of_memory() -> None:
    with pytest.raises(MemoryError, match="gives no more memory to the KV cache"):
        Slab(Shape(1 << 20, 1 << 10, 1 << 10, torch.float32), 1, 1 << 10)


def test_a_prompt_that_was_stopped_early_rests_with_what_it_holds() -> None:
    rows = KVCache(SHAPE, 20)
    others = [hold(rows, [number] * 4 * BLOCK) for number in (1, 2)]
    for row in others:
        rows.release(row)
    stopped = rows.allocate([3] * 10 * BLOCK, 12 * BLOCK)
    assert stopped.blocks == 12
    stopped.ids = [3] * BLOCK
    rows.release(stopped)
    assert stopped.blocks == 1
    rows.allocate([4] * 11 * BLOCK, 11 * BLOCK)
    assert all(row in rows for row in (*others[1:], stopped))


def test_a_beginning_is_found_also_where_there_is_no_room_for_a_copy() -> None:
    rows = KVCache(SHAPE, 16)
    source = hold(rows, range(1, 10 * BLOCK))
    rows.release(source)
    row = rows.allocate([*range(1, 2 * BLOCK), *[0] * 6 * BLOCK], 8 * BLOCK)
    assert list(rows) == [row]
    assert row.ids == held(row) == list(range(1, 2 * BLOCK))


def test_more_than_there_is_is_a_want_of_memory() -> None:
    rows = KVCache(SHAPE, 2)
    with pytest.raises(MemoryError, match="not enough memory"):
        rows.allocate([1], 5 * BLOCK)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 150), st.integers(0, 100), st.booleans()), max_size=30))
def test_whatever_is_asked_rows_hold_what_they_say_and_stay_within_their_blocks(
    asked: list[tuple[int, int, int, bool]],
) -> None:
    rows = KVCache(SHAPE, 12)
    running: list[SlabSequence] = []
    needs: dict[int, int] = {}
    for conversation, prompt, answer, ends in asked:
        ids = [conversation + 1 if place > 20 else 9 for place in range(prompt)]
        need = blocks_for(prompt + answer)
        if sum(needs.values()) + need <= 12:  # the limit that Batching applies
            row = rows.allocate(ids, prompt + answer)
            assert row.ids == held(row) if row.ids else True
            assert row.ids == ids[: len(row.ids)]
            assert len(row.ids) < len(ids)
            for layer in row.held:
                layer[0, : prompt + answer, 0] = torch.tensor([*ids, *range(answer)], dtype=torch.float32)
            row.ids = [*ids, *range(answer)]
            running.append(row)
            needs[id(row)] = need
        if ends and running:
            row = running.pop(0)
            del needs[id(row)]
            rows.release(row)
        assert sum(row.blocks for row in rows) <= 12
        assert rows.free == 12 - sum(row.blocks for row in running)
        for row in rows:
            assert row.ids == held(row)
