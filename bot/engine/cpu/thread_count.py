"""Lets a batch compute with fewer threads while other processes use its cores.

A step has hundreds of kernels, and at the end of each its threads wait for each other, actively. With more threads than
free cores most of the time goes into waiting for a thread that does not run (docs/measurements.md, bench.busy).
"""

from collections.abc import Callable
from time import monotonic, process_time

import psutil
import torch

from bot.models.control_groups import usable_cores

INTERVAL_S = 1.0
"""Interval at which the use of the cores is read; a reading costs 0.1 ms."""
MOST = torch.get_num_threads()
"""Threads on an idle machine: OMP_NUM_THREADS or the number of cores."""
HYSTERESIS = 0.5
"""Free cores by which the number of threads must be wrong; one other busy process on two cores gets 0.67 of one."""


def used_by_others() -> float:
    """CPU seconds, since any fixed time, that other processes have used on the cores of this one."""
    cores = usable_cores()
    times = [each for number, each in enumerate(psutil.cpu_times(percpu=True)) if number in cores]
    busy = sum(each.user + each.system + getattr(each, "irq", 0.0) + getattr(each, "softirq", 0.0) for each in times)
    return busy - process_time()


class ThreadCount:
    """The number of threads of torch, which all models share. Call `adjust` on the thread that computes.

    used, clock, cores: read the CPU seconds of other processes, the time, and the cores. use: sets the number.
    """

    def __init__(
        self,
        most: int = MOST,
        used: Callable[[], float] = used_by_others,
        clock: Callable[[], float] = monotonic,
        cores: Callable[[], frozenset[int]] = usable_cores,
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self._most, self._used, self._clock, self._cores, self._use = most, used, clock, cores, use
        self._threads = most
        self._resting = False
        self._before: tuple[float, float] | None = None  # the time, and the seconds of others then

    def adjust(self) -> None:
        """Set the number of threads, if the last reading is INTERVAL_S old. The first call, and one after a pause of
        many intervals, only read: an idle batch says nothing about the cores."""
        if self._most == 1:
            return
        if self._resting:
            self._resting = False
            self._apply()
        now = self._clock()
        if self._before is not None and now - self._before[0] < INTERVAL_S:
            return
        before, self._before = self._before, (now, self._used())
        if before is None or now - before[0] > 3 * INTERVAL_S:
            return
        others = (self._before[1] - before[1]) / (now - before[0])
        free = min(self._most, max(1.0, len(self._cores()) - others))
        if abs(free - self._threads) >= HYSTERESIS:
            self._threads = max(1, round(free))
            self._use(self._threads)

    def rest(self) -> None:
        """Let other models use all threads until the next `adjust`, which uses the last number again."""
        if not self._resting:
            self._resting = True
            self._apply()

    def _apply(self) -> None:
        if self._threads != self._most:
            self._use(self._most if self._resting else self._threads)
