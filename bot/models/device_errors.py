"""What it means when the model raises something: not enough memory, a device that is lost, or one bad step.

In: whatever torch or transformers raised. Out: a `Failure`, which is words only. An exception holds its traceback, that
holds the frames of the step, and those hold its tensors: none of it may be kept by whoever wants the memory back.
"""

import ctypes
import gc
import sys
from dataclasses import dataclass

import torch

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
"""How torch says it where it raises a plain RuntimeError, as its CPU allocator and cuBLAS do."""

DEVICE_LOST = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "cuDNN error")

UNANSWERABLE = (
    "There was not enough memory for this answer, nor when it was tried again alone after the KV cache of all"
    " conversations was dropped; use /reset or ask for something shorter."
)


class Unrecoverable(Exception):
    """Only a new process gets out of this: a CUDA error never goes away, and no memory is left even for one token."""


@dataclass(frozen=True, slots=True)
class Failure:
    """memory: there was too little of it. device_lost: every later call fails as well. why: the library's words."""

    why: str
    memory: bool = False
    device_lost: bool = False

    @property
    def sentence(self) -> str:
        """What a person reads whose answer is given up."""
        return UNANSWERABLE if self.memory else f"The model failed on this answer: {self.why}."


def judge(error: BaseException) -> Failure:
    """What an exception means."""
    why = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    raised_by_torch = isinstance(error, RuntimeError)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (raised_by_torch and _says(error, NO_MEMORY)):
        return Failure(why, memory=True)
    lost = isinstance(error, torch.AcceleratorError) or (raised_by_torch and _says(error, DEVICE_LOST))
    return Failure(why, device_lost=lost)


def give_back() -> None:
    """Return to the system what nothing uses any more, of the GPU's memory and of ours."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(word in str(error) for word in words)
