"""Times work on a GPU, or on a CPU in a rehearsal."""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from bot.engine.gpu.cuda_graphs import Replay


def wait(device: torch.device) -> None:
    """Waits until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def work_ms(work: Callable[[], object], device: torch.device, times: int = 10) -> float:
    """Median ms of some work, until the device has done it."""
    found = []
    for _ in range(times + 2):
        wait(device)
        began = perf_counter()
        work()
        wait(device)
        found.append((perf_counter() - began) * 1000)
    return median(found[2:])


def replay_ms(replay: Replay, device: torch.device) -> float:
    """Median ms of a captured step."""
    return work_ms(replay.replay, device)


def used_mb(device: torch.device) -> float:
    """MB that torch has reserved on the device."""
    return torch.cuda.memory_reserved(device) / 1e6 if device.type == "cuda" else 0.0


def bandwidth(device: torch.device, size: int = 2 << 30) -> float:
    """Bytes per second that a copy on the device reads and writes."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / (work_ms(lambda: target.copy_(source), device) / 1000)
