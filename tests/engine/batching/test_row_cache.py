"""Tests the rows of the KV caches of a CPU and of a GPU alike: contents, reuse of prefixes, and eviction."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bot.engine.batching.row_cache import BLOCK, Shape, blocks_for
from bot.engine.cpu.kv_cache import KVCache, SlabSequence
from bot.engine.gpu.flat_cache import FlatCache, FlatSequence

SHAPE = Shape(layers=2, heads=1, width=4, dtype=torch.float32)
ROW_BYTES = SHAPE.layers * SHAPE.token_bytes * BLOCK
"""Bytes of a block of all layers."""

Cache = KVCache | FlatCache
Row = SlabSequence | FlatSequence
KINDS = ("slabs", "flat")

each_kind = pytest.mark.parametrize("kind", KINDS)


def cache(kind: str, blocks: int, offload: int = 0) -> Cache:
    """An empty cache. offload: bytes of RAM for what a flat one evicts."""
    return KVCache(SHAPE, blocks) if kind == "slabs" else FlatCache(SHAPE, blocks, torch.device("cpu"), offload)


def allocate(rows: Cache, ids: Sequence[int], most: int) -> Row:
    row: Row = rows.allocate(ids, most)
    return row


def release(rows: Cache, row: Row) -> None:
    rows.release(row)  # type: ignore[arg-type]  # the row is one of this cache


def place_of(rows: Cache, row: Row) -> Tensor:
    """The first value of each key and value of a row, [2 x layers, tokens]."""
    if isinstance(row, SlabSequence):
        return row.held[:, 0, :, 0]
    assert isinstance(rows, FlatCache)
    return rows.held_by(row)[:, :, 0, 0]


def write(rows: Cache, row: Row, ids: Sequence[int]) -> None:
    """Give each of the row's tokens a key and value of its own."""
    place_of(rows, row)[:, : len(ids)] = torch.tensor(ids, dtype=torch.float32)
    row.ids = list(ids)


def hold(rows: Cache, ids: Sequence[int], most: int | None = None) -> Row:
    """A row that holds all of `ids`."""
    row = allocate(rows, [*ids, 0], most or len(ids) + 1)
    write(rows, row, ids)
    return row


def held(rows: Cache, row: Row) -> list[int]:
    """The contents of a row; the same in all layers."""
    layers = place_of(rows, row)[:, : len(row.ids)]
    assert bool((layers == layers[0]).all())
    return [int(value) for value in layers[0]]


@each_kind
def test_the_next_turn_goes_on_in_its_row(kind: str) -> None:
    rows = cache(kind, 8)
    row = hold(rows, range(1, 41))
    release(rows, row)
    again = allocate(rows, [*range(1, 41), 77, 78], 100)
    assert again is row
    assert again.ids == held(rows, again) == list(range(1, 41))


@each_kind
def test_the_last_token_of_a_prompt_is_always_computed(kind: str) -> None:
    rows = cache(kind, 8)
    release(rows, hold(rows, range(1, 41)))
    assert allocate(rows, range(1, 41), 50).ids == list(range(1, 40))


@each_kind
def test_another_conversation_with_the_same_beginning_gets_a_copy_of_it(kind: str) -> None:
    rows = cache(kind, 8)
    row = hold(rows, range(1, 101))
    release(rows, row)
    other = allocate(rows, [*range(1, 31), *range(500, 550)], 100)
    assert other is not row
    assert other.ids == held(rows, other) == list(range(1, 31))
    assert row.ids == held(rows, row) == list(range(1, 101))


@each_kind
def test_what_is_being_written_is_copied_and_never_taken(kind: str) -> None:
    rows = cache(kind, 8)
    row = hold(rows, range(1, 101))
    other = allocate(rows, [*range(1, 101), 7], 110)
    assert other is not row
    assert other.ids == held(rows, other) == list(range(1, 101))


@each_kind
def test_the_least_recently_used_is_evicted_first_and_none_in_use(kind: str) -> None:
    rows = cache(kind, 4)
    kept = hold(rows, [9] * (BLOCK - 1))
    rested = [hold(rows, [first] * (BLOCK - 1)) for first in (1, 2, 3)]
    for row in rested:
        release(rows, row)
    new = allocate(rows, [4] * 2 * BLOCK, 2 * BLOCK)
    assert new.blocks == 2
    assert list(rows) == [kept, rested[2], new]


@each_kind
def test_the_source_of_a_copy_stays_for_the_copy_and_is_no_younger_for_it(kind: str) -> None:
    """All prompts share a prefix, so copies could keep the oldest row forever."""
    rows = cache(kind, 8)
    rested = [hold(rows, [9] * 20 + [first] * (2 * BLOCK - 21)) for first in (1, 2, 3)]
    for row in rested:
        release(rows, row)
    copy = allocate(rows, [*[9] * 20, *[4] * BLOCK], 2 * BLOCK)
    write(rows, copy, [*[9] * 20, *[4] * (2 * BLOCK - 21)])
    release(rows, copy)
    assert list(rows)[:3] == rested
    allocate(rows, [*[9] * 20, *[5] * BLOCK], 2 * BLOCK)
    assert list(rows)[:2] == [rested[0], rested[2]]


@each_kind
def test_a_row_that_is_taken_over_is_cut_to_what_was_asked_for(kind: str) -> None:
    rows = cache(kind, 7)
    release(rows, hold(rows, range(1, 6 * BLOCK)))
    row = allocate(rows, [*range(1, 4 * BLOCK), 0], 4 * BLOCK)
    assert row.blocks == rows.blocks - rows.free == 4
    assert held(rows, row) == list(range(1, 4 * BLOCK))
    assert list(rows) == [row]


@each_kind
def test_two_conversations_with_a_long_beginning_in_common_keep_a_row_each(kind: str) -> None:
    """In alternating turns, neither conversation loses its cached prefix to the other."""
    rows, found = cache(kind, 40), []
    for turn in range(3):
        for ending in (1000, 2000):
            said = [*range(1, 400), *range(ending, ending + 200 + 20 * turn)]
            row = allocate(rows, [*said, 0], 700)
            found.append(len(row.ids))
            row.ids = said
            release(rows, row)
    assert found == [0, 399, 599, 599, 619, 619]
    assert len(list(rows)) == 2


@each_kind
def test_a_prompt_that_was_stopped_early_rests_with_what_it_holds(kind: str) -> None:
    rows = cache(kind, 20)
    others = [hold(rows, [number] * 4 * BLOCK) for number in (1, 2)]
    for row in others:
        release(rows, row)
    stopped = allocate(rows, [3] * 10 * BLOCK, 12 * BLOCK)
    assert stopped.blocks == 12
    stopped.ids = [3] * BLOCK
    release(rows, stopped)
    assert stopped.blocks == 1
    allocate(rows, [4] * 11 * BLOCK, 11 * BLOCK)
    assert all(row in list(rows) for row in (*others[1:], stopped))


@each_kind
def test_a_beginning_is_found_also_where_there_is_no_room_for_a_copy(kind: str) -> None:
    rows = cache(kind, 16)
    release(rows, hold(rows, range(1, 10 * BLOCK)))
    row = allocate(rows, [*range(1, 2 * BLOCK), *[0] * 6 * BLOCK], 8 * BLOCK)
    assert list(rows) == [row]
    assert row.ids == held(rows, row) == list(range(1, 2 * BLOCK))


@each_kind
def test_more_than_there_is_is_a_want_of_memory(kind: str) -> None:
    rows = cache(kind, 2)
    with pytest.raises(MemoryError, match="not enough memory"):
        allocate(rows, [1], 5 * BLOCK)


REQUESTS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 250), st.integers(0, 150), st.booleans()), max_size=30)


@pytest.mark.parametrize(("kind", "offload"), [("slabs", 0), ("flat", 0), ("flat", 3), ("flat", 100)])
@given(asked=REQUESTS)
def test_whatever_is_asked_rows_hold_what_they_say_and_stay_within_their_blocks(
    kind: str, offload: int, asked: list[tuple[int, int, int, bool]]
) -> None:
    rows = cache(kind, 12, offload * ROW_BYTES)
    running: list[Row] = []
    needs: dict[int, int] = {}
    for conversation, prompt, answer, ends in asked:
        ids = [conversation + 1 if place > 20 else 9 for place in range(prompt)]
        need = blocks_for(prompt + answer)
        if sum(needs.values()) + need <= 12:  # the limit that Batching applies
            row = allocate(rows, ids, prompt + answer)
            assert row.ids == held(rows, row) == ids[: len(row.ids)]
            assert len(row.ids) < len(ids)
            write(rows, row, [*ids, *range(answer)])
            running.append(row)
            needs[id(row)] = need
        if ends and running:
            row = running.pop(0)
            del needs[id(row)]
            release(rows, row)
        assert sum(row.blocks for row in rows) <= 12
        assert rows.free == 12 - sum(row.blocks for row in running)
        for row in rows:
            assert row.ids == held(rows, row)
        if isinstance(rows, FlatCache):
            assert rows.offload.taken <= offload * ROW_BYTES
            spans = sorted((row.start, row.start + row.size) for row in rows)
            assert all(one[1] <= other[0] for one, other in pairwise(spans))
            assert all(end <= rows.unused_slot for _, end in spans)
