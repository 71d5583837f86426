"""Tests how many threads a batch uses while other processes use its cores."""

import os

import pytest

from bot.engine.cpu.thread_count import INTERVAL_S, ThreadCount, used_by_others


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


def test_it_ends_with_all_threads() -> None:
    machine = Machine(4)
    machine.threads.restore()
    assert machine.set == []
    machine.passes(4.0)
    machine.threads.restore()
    assert machine.set == [1, 4]


def test_one_thread_stays_one() -> None:
    assert Machine(1).passes(5.0) == []


def test_the_use_of_the_cores_is_read_and_grows() -> None:
    before = used_by_others()
    sum(range(1_000_000))
    assert used_by_others() >= before - 0.1 * (os.cpu_count() or 1)
