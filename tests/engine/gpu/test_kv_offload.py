"""Tests offloading of evicted KV blocks to RAM: a conversation that returns reuses its prefix."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers.generation.continuous_batching.cache_allocators.cache_allocator import CacheAllocator

from bot.engine.gpu.flat_batch import FlatBatch
from bot.engine.gpu.kv_offload import KVOffload
from bot.engine.gpu.paged_batch import PagedBatch
from bot.engine.memory.memory_estimate import expected
from bot.engine.server.batched_generator import BatchType
from bot.engine.server.engine_server import EngineServer
from bot.types.engine import LoadProgress, ModelSource
from tests.support.builders.engine_requests import GREEDY
from tests.support.builders.in_process_engine import Bench

pytest_plugins = ["tests.support.fixtures.engine"]

BLOCKS = 24
"""Blocks of 16 tokens: enough for one of these conversations, not for two."""
TOPICS = [f"{topic} " * 60 for topic in ("lazy", "quick", "brown", "fox")]
PARAMS = replace(GREEDY, max_tokens=8)


def conversations(bench: Bench) -> list[tuple[str, int]]:
    """Asks in each conversation once, and once more after all others: answers and numbers of cached tokens."""
    told = []
    for number, topic in enumerate(TOPICS * 2):
        text = bench.whole(number, topic, PARAMS)
        usage = getattr(bench.ends[number], "usage", None)
        assert usage is not None
        told.append((text, usage.cached_tokens))
    return told


@pytest.mark.parametrize("model", ["llama", "phi", "phi3", "mistral"])
def test_what_was_evicted_comes_back_and_says_the_same(tiny: dict[str, Path], model: str) -> None:
    bench = Bench(tiny[model], kind="paged", blocks=BLOCKS, offload_mb=16)
    told = conversations(bench)
    bench.generator.close()
    first, second = told[: len(TOPICS)], told[len(TOPICS) :]
    assert [text for text, _ in first] == [text for text, _ in second]
    assert all(found > 100 for _, found in second)


def test_without_it_the_conversation_is_read_anew(tiny: dict[str, Path]) -> None:
    bench = Bench(tiny["llama"], kind="paged", blocks=BLOCKS)
    told = conversations(bench)
    bench.generator.close()
    # Eviction begins at the end of a conversation, so some of its beginning may remain.
    assert all(found < 50 for _, found in told[len(TOPICS) :])


def test_a_little_ram_keeps_the_beginnings_of_what_rested_last(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[KVOffload] = []

    def recorded(part: CacheAllocator, limit: int) -> KVOffload:
        made.append(KVOffload(part, limit))
        return made[-1]

    monkeypatch.setattr("bot.engine.gpu.scheduler.KVOffload", recorded)
    bench = Bench(tiny["llama"], kind="paged", blocks=BLOCKS, offload_mb=1)
    (offload,) = made
    kept = []
    for number in range(12):
        bench.whole(number, f"{number} {TOPICS[number % 4]}", PARAMS)
        kept.append(len(offload))
        assert offload.taken <= 1 << 20
    assert kept[-1] == max(kept) > 0, "no place is lost"
    bench.generator.close()


def test_several_at_once_find_theirs(tiny: dict[str, Path]) -> None:
    """Conversations that return together share the cache, and do not evict what the others restored."""
    bench = Bench(tiny["llama"], kind="paged", blocks=3 * BLOCKS, offload_mb=16)
    alone = [bench.whole(number, topic, PARAMS) for number, topic in enumerate(TOPICS)]
    for round_ in range(1, 4):
        for number, topic in enumerate(TOPICS):
            bench.submit(10 * round_ + number, topic, PARAMS)
        bench.run()
        assert [bench.texts[10 * round_ + number] for number in range(len(TOPICS))] == alone
    bench.generator.close()


@pytest.mark.parametrize("kind", [PagedBatch, FlatBatch])
def test_its_ram_is_counted(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: BatchType) -> None:
    monkeypatch.setattr("bot.engine.server.engine_server.kind_for", lambda *_: kind)
    host = EngineServer(lambda _: None, lambda _: None, lambda *_: None)
    source = ModelSource("llama", str(tiny["llama"]), device="cpu", dtype="float32", kv_cache_mb=16)

    def limit(offload_mb: int) -> int:
        told = host.load(replace(source, kv_offload_mb=offload_mb), unseen)
        assert told.kv_offload_mb == offload_mb
        return host.stats().memory_limit_mb

    without = limit(0)
    assert limit(2000) - without > 2500
    gpu = replace(source, kv_offload_mb=2000)
    assert expected(gpu) == expected(source)  # a CPU has nothing to offload from


def unseen(progress: LoadProgress) -> None:
    """Ignores the progress of a load."""
