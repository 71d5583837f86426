"""Captures steps on the CPU as a CUDA graph would: records a step's operators and repeats them on the same tensors.

Numbers that Python computed during the recording are fixed, and each operator writes its result to the same memory
again. An operator that would wait for a GPU, or whose result's shape depends on data, is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::item",
    "aten::equal",
    "aten::allclose",
    "aten::nonzero",
    "aten::masked_select",
    "aten::bincount",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::repeat_interleave.Tensor",
    "aten::lift_fresh",  # a tensor from numbers of Python, which is copied to the GPU
}
"""Operators that wait for the GPU, or copy from the memory of Python."""


class WouldWait(RuntimeError):
    """A step used an operator that waits for the GPU."""


class Recording(TorchDispatchMode):
    """The operators of a step, in order, with the tensors that they read and wrote."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        refuse(func, args)
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, tensors(result)))
        return result


@dataclass
class RecordedStep:
    """A recording that can be replayed."""

    recording: Recording
    output: Tensor

    def replay(self) -> None:
        """Repeats all operators."""
        for func, args, kwargs, before in self.recording.calls:
            for old, new in zip(before, tensors(func(*args, **kwargs)), strict=True):
                assert old.shape == new.shape, f"the shape of {func} depends on data"
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class RecordedSteps:
    """Captures steps as recordings. rooms: how many captures there is memory for."""

    def __init__(self, rooms: int = 100) -> None:
        self.steps: list[RecordedStep] = []
        self._rooms = rooms

    def check(self, run: Callable[[], Tensor]) -> None:
        """Runs a step. Raises WouldWait."""
        with Recording():
            run()

    def has_room(self, run: Callable[[], Tensor]) -> bool:
        """Whether there is memory for another capture."""
        run()
        return len(self.steps) < self._rooms

    def capture(self, run: Callable[[], Tensor]) -> RecordedStep:
        """Records a step."""
        recording = Recording()
        with recording:
            output = run()
        self.steps.append(RecordedStep(recording, output))
        return self.steps[-1]


def refuse(func: Any, args: Any) -> None:
    """Raises WouldWait for an operator that would wait for a GPU."""
    name = func.name()
    if name in WAITS:
        raise WouldWait(f"{name} waits for the GPU")
    indexes = args[1] if name.startswith(("aten::index.", "aten::index_put")) else ()
    if any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in indexes):
        raise WouldWait(f"{name} with a mask waits for the GPU")


def tensors(result: Any) -> list[Tensor]:
    """The tensors of an operator's result."""
    return [each for each in tree_leaves(result) if isinstance(each, Tensor)]
