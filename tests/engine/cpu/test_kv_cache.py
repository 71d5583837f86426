"""Tests the slabs of the KV cache on a CPU: rows that outgrow theirs, and the memory that they take."""

import random
from collections.abc import Sequence

import psutil
import pytest
import torch

from bot.engine.batching.row_cache import BLOCK, Shape
from bot.engine.cpu.kv_cache import KVCache, Slab, SlabSequence

SHAPE = Shape(layers=2, heads=1, width=4, dtype=torch.float32)


def hold(rows: KVCache, ids: Sequence[int], most: int | None = None) -> SlabSequence:
    """A row that holds all of `ids`, each with a key and value of its own."""
    row = rows.allocate([*ids, 0], most or len(ids) + 1)
    row.held[:, 0, : len(ids), 0] = torch.tensor(ids, dtype=torch.float32)
    row.ids = list(ids)
    return row


def held(row: SlabSequence) -> list[int]:
    """The contents of its last layer."""
    return [int(key) for key in row.held[-1][0, : len(row.ids), 0]]


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


def test_a_conversation_that_outgrows_its_row_moves_to_a_longer_one() -> None:
    rows = KVCache(SHAPE, 20)
    row = hold(rows, range(1, 3 * BLOCK))
    rows.release(row)
    longer = rows.allocate([*range(1, 3 * BLOCK), 5, 6], 9 * BLOCK)
    assert longer.ids == held(longer) == list(range(1, 3 * BLOCK))
    assert list(rows) == [longer]
    assert longer.slab.blocks == 16


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
