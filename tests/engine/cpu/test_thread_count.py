"""Tests how many threads a batch uses while other processes use its cores."""

import os
import threading
from collections import deque
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.cpu.cpu_batch import CpuBatch
from bot.engine.cpu.thread_count import INTERVAL_S, ThreadCount, used_by_others
from tests.support.builders.batch_requests import GREEDY, Answers, Asked, answers

pytest_plugins = ["tests.support.fixtures.engine"]


class Machine:
    """A clock, the CPU seconds of other processes, and the number of threads that was set."""

    def __init__(self, cores: int) -> None:
        self.now = self.used = 0.0
        self.set: list[int] = []
        usable = frozenset(range(cores))
        self.threads = ThreadCount(cores, lambda: self.used, lambda: self.now, lambda: usable, self.set.append)
        self.threads.adjust()

    def passes(self, others: float, seconds: float = INTERVAL_S) -> list[int]:
        """Time passes while others use so many cores; what was set meanwhile."""
        self.set.clear()
        self.now += seconds
        self.used += others * seconds
        self.threads.adjust()
        return list(self.set)


def test_threads_go_with_the_cores_that_others_leave() -> None:
    machine = Machine(8)
    assert machine.passes(0.2) == []
    assert machine.passes(3.1) == [5]
    assert machine.passes(3.4) == []
    assert machine.passes(8.0) == [1]
    assert machine.passes(0.0) == [8]


@pytest.mark.parametrize("loops", [1, 2, 5])
def test_two_threads_beside_busy_processes_become_one_and_two_again(loops: int) -> None:
    """Every runnable thread gets an equal share of two cores."""
    machine = Machine(2)
    assert machine.passes(2 * loops / (loops + 2)) == [1]
    for _ in range(5):
        assert machine.passes(2 * loops / (loops + 1) if loops > 1 else 1.0) == []
    assert machine.passes(0.1) == [2]


def test_a_pause_says_nothing() -> None:
    machine = Machine(4)
    assert machine.passes(4.0, seconds=100) == []
    assert machine.passes(4.0, seconds=0.1) == []
    assert machine.passes(4.0) == [1]


def test_all_threads_are_left_to_other_models_while_nothing_runs() -> None:
    machine = Machine(4)
    machine.threads.rest()
    assert machine.set == []
    assert machine.passes(0.0) == []
    assert machine.passes(4.0) == [1]
    machine.threads.rest()
    machine.threads.rest()
    assert machine.set == [1, 4]
    assert machine.passes(0.0, seconds=100) == [1]


def test_one_thread_stays_one() -> None:
    assert Machine(1).passes(5.0) == []


def test_the_use_of_the_cores_is_read_and_grows() -> None:
    before = used_by_others()
    sum(range(1_000_000))
    assert used_by_others() >= before - 0.1 * (os.cpu_count() or 1)


def test_a_batch_without_requests_leaves_all_threads_to_other_models(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rests = threading.Event()

    class Noted(ThreadCount):
        def rest(self) -> None:
            rests.set()

    monkeypatch.setattr("bot.engine.cpu.cpu_batch.ThreadCount", Noted)
    model = AutoModelForCausalLM.from_pretrained(tiny["llama"], dtype=torch.float32).eval()
    batch = CpuBatch(model, 8, model.config.vocab_size, PrefillBudget(32, 64), Answers(deque()))
    try:
        answers(batch, [Asked("one", [1, 2, 3], 2, GREEDY)])
        assert rests.wait(20)
    finally:
        batch.stop()
