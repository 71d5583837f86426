"""Captures steps of a model as CUDA graphs, which launch all kernels of a step at once.

A step may only be captured if it never waits for the GPU. An error during a capture may break the device for good, so
`has_room` and `check` come first, and the process must be replaced after a failed capture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bot.models.device_errors import Unrecoverable, classify

ROOM_SHARE, ROOM_BYTES = 2, 512 << 20
"""Free memory that a capture needs: so many times a step's own, and bytes on top for cuBLAS and the graph itself."""


class Replay(Protocol):
    """A captured step."""

    @property
    def output(self) -> Tensor:
        """The tensor that a replay computes anew."""
        ...

    def replay(self) -> None:
        """Compute the step from the present contents of its inputs."""
        ...


class Capture(Protocol):
    """Captures steps; the tests have one for the CPU."""

    def check(self, run: Callable[[], Tensor]) -> None:
        """Run a step. Raises RuntimeError if it waits for the GPU."""
        ...

    def has_room(self, run: Callable[[], Tensor]) -> bool:
        """Run a step, and return whether there is enough memory to capture it."""
        ...

    def capture(self, run: Callable[[], Tensor]) -> Replay:
        """Capture a step. Raises Unrecoverable if that fails."""
        ...


@dataclass(frozen=True, slots=True)
class CudaReplay:
    """A CUDA graph and its output."""

    graph: torch.cuda.CUDAGraph
    output: Tensor

    def replay(self) -> None:
        self.graph.replay()


class CudaGraphs:
    """Captures CUDA graphs that share one pool of memory; capture the largest first."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def check(self, run: Callable[[], Tensor]) -> None:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def has_room(self, run: Callable[[], Tensor]) -> bool:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        run()
        torch.cuda.synchronize(self._device)
        needs = torch.cuda.max_memory_allocated(self._device) - before
        torch.cuda.empty_cache()  # a graph's pool cannot use what torch keeps
        free, _ = torch.cuda.mem_get_info(self._device)
        return free >= ROOM_SHARE * needs + ROOM_BYTES

    def capture(self, run: Callable[[], Tensor]) -> CudaReplay:
        graph = torch.cuda.CUDAGraph()
        try:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                run()  # libraries allocate their workspaces for this stream
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                output = run()
        except Exception as error:
            why = f"a CUDA graph could not be captured: {classify(error).why}; set INHOUSE_GPU_BATCH=library"
            raise Unrecoverable(why) from error
        return CudaReplay(graph, output)
