"""Tests the spans of the flat KV cache: contents, moves, and eviction to RAM."""

from collections.abc import Sequence

import torch

from bot.engine.batching.row_cache import BLOCK, Shape
from bot.engine.gpu.flat_cache import FlatCache, FlatSequence
from bot.engine.gpu.row_offload import RowOffload

SHAPE = Shape(layers=2, heads=1, width=4, dtype=torch.float32)
CPU = torch.device("cpu")
ROW_BYTES = SHAPE.layers * SHAPE.token_bytes * BLOCK
"""Bytes of a block of all layers."""


def cache(blocks: int, offload: int = 0) -> FlatCache:
    """An empty cache."""
    return FlatCache(SHAPE, blocks, CPU, offload)


def hold(rows: FlatCache, ids: Sequence[int], most: int | None = None) -> FlatSequence:
    """A row that holds all of `ids`, each with a key and value of its own."""
    row = rows.allocate([*ids, 0], most or len(ids) + 1)
    rows.held_by(row)[:, : len(ids), 0, 0] = torch.tensor(ids, dtype=torch.float32)
    row.ids = list(ids)
    return row


def held(rows: FlatCache, row: FlatSequence) -> list[int]:
    """The contents of a row; the same in all layers."""
    layers = [[int(key) for key in layer[: len(row.ids), 0, 0]] for layer in rows.held_by(row)]
    assert all(layer == layers[0] for layer in layers)
    return layers[0]


def test_an_idle_row_keeps_only_the_blocks_that_it_fills() -> None:
    rows = cache(8)
    row = hold(rows, range(1, 70), 8 * BLOCK)
    assert rows.free == 0
    rows.release(row)
    other = hold(rows, range(200, 260), 6 * BLOCK)
    assert list(rows) == [row, other]
    assert held(rows, row) == list(range(1, 70))


def test_the_next_turn_grows_where_it_is() -> None:
    rows = cache(8)
    row = hold(rows, range(1, 70))
    rows.release(row)
    again = rows.allocate([*range(1, 70), 7, 8], 6 * BLOCK)
    assert again is row
    assert (row.start, row.size) == (0, 6 * BLOCK)
    assert held(rows, row) == list(range(1, 70))


def test_a_row_that_cannot_grow_where_it_is_moves_to_free_space() -> None:
    rows = cache(8)
    row, neighbour = hold(rows, range(1, 70)), hold(rows, range(300, 330))
    rows.release(row)
    again = rows.allocate([*range(1, 70), 7, 8], 4 * BLOCK)
    assert again is row
    assert row.start == 3 * BLOCK
    assert (held(rows, row), held(rows, neighbour)) == (list(range(1, 70)), list(range(300, 330)))


def test_a_row_grows_between_rows_in_use_if_there_is_no_other_space() -> None:
    """The rows behind it move up by less than their length, so the old and the new place overlap."""
    rows = cache(8)
    row, long, short = hold(rows, range(1, 60)), hold(rows, range(300, 600)), hold(rows, range(900, 930))
    rows.release(row)
    again = rows.allocate([*range(1, 60), 7, 8], 2 * BLOCK)
    assert again is row
    assert [other.start for other in (row, long, short)] == [0, 2 * BLOCK, 7 * BLOCK]
    assert held(rows, row) == list(range(1, 60))
    assert held(rows, long) == list(range(300, 600))
    assert held(rows, short) == list(range(900, 930))


def test_holes_are_joined_by_moving_rows_in_use() -> None:
    rows = cache(8)
    kept = [hold(rows, [number] * 100) for number in range(1, 5)]
    for row in kept[::2]:
        rows.release(row)
    new = hold(rows, [9] * 200, 4 * BLOCK)
    assert list(rows) == [kept[1], kept[3], new]
    assert [held(rows, row)[0] for row in rows] == [2, 4, 9]
    assert [row.start for row in rows] == [0, 2 * BLOCK, 4 * BLOCK]


def test_an_evicted_row_comes_back_from_ram() -> None:
    rows = cache(2, 4 * ROW_BYTES)
    rows.release(hold(rows, range(1, 100)))
    rows.release(hold(rows, range(200, 300)))
    assert rows.offload.taken == 99 * ROW_BYTES // BLOCK
    row = rows.allocate([*range(1, 100), 5], 110)
    assert row.ids == held(rows, row) == list(range(1, 100))
    assert len(rows.offload) == 1, "the other one takes its place"


def test_what_another_conversation_also_begins_with_stays_in_ram() -> None:
    rows = cache(2, 4 * ROW_BYTES)
    rows.release(hold(rows, range(1, 100)))
    rows.release(hold(rows, range(200, 300)))
    row = rows.allocate([*range(1, 50), *range(400, 430)], 110)
    assert row.ids == held(rows, row) == list(range(1, 50))
    rows.release(row)
    assert rows.allocate([*range(1, 100), 5], 110).ids == list(range(1, 100))


def test_the_end_that_reuse_discards_is_kept_in_ram() -> None:
    rows = cache(2, 4 * ROW_BYTES)
    rows.release(hold(rows, range(1, 100)))
    rows.release(hold(rows, [*range(1, 20), *range(400, 490)], 2 * BLOCK))
    assert rows.allocate([*range(1, 100), 5], 110).ids == list(range(1, 100))


def test_ram_keeps_what_was_used_last_and_as_much_of_it_as_fits() -> None:
    offload = RowOffload(ROW_BYTES)
    block = torch.zeros((2 * SHAPE.layers, BLOCK, SHAPE.heads, SHAPE.width))
    offload.keep(range(1, 41), block)
    offload.keep(range(100, 141), block)
    assert len(offload) == 1
    assert offload.find(range(1, 41)) == (None, 0)
    offload.keep(range(100, 120), block)
    assert (len(offload), offload.find(range(100, 200))[1]) == (1, 41), "it is a part of what is kept already"
    offload.keep([*range(100, 200), 7], block.repeat(1, 2, 1, 1))
    assert (len(offload), offload.find(range(100, 200))[1]) == (1, BLOCK)
    assert offload.taken == ROW_BYTES
