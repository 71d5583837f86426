"""Classify exceptions of torch and transformers: out of memory, lost device, or one failed step.

A `Failure` holds only text. An exception keeps its traceback, and with it the frames and tensors of the failed step, so
callers must not keep the exception when they want to free that memory.
"""

import ctypes
import gc
import sys
from dataclasses import dataclass

import torch

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
"""Messages of the plain RuntimeError that torch's CPU allocator and cuBLAS raise when memory runs out."""

DEVICE_LOST = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "cuDNN error")

UNANSWERABLE = (
    "There was not enough memory for this answer, even when it ran alone with an empty KV cache. Use /reset, or ask for"
    " something shorter."
)


class Unrecoverable(Exception):
    """The engine process must be replaced: CUDA errors are sticky, or there is no memory even for one token."""


@dataclass(frozen=True, slots=True)
class Failure:
    """why: the library's message. memory: out of memory. device_lost: all later calls on the device fail, too."""

    why: str
    memory: bool = False
    device_lost: bool = False

    @property
    def sentence(self) -> str:
        """The message to the user when their answer is abandoned."""
        return UNANSWERABLE if self.memory else f"The model failed on this answer: {self.why}."


def classify(error: BaseException) -> Failure:
    """Classify an exception."""
    why = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    raised_by_torch = isinstance(error, RuntimeError)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (raised_by_torch and _says(error, NO_MEMORY)):
        return Failure(why, memory=True)
    lost = isinstance(error, torch.AcceleratorError) or (raised_by_torch and _says(error, DEVICE_LOST))
    return Failure(why, device_lost=lost)


def release_memory() -> None:
    """Collect garbage and return unused GPU memory and heap memory to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
        if trim is not None:
            trim(0)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(word in str(error) for word in words)
