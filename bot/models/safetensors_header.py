"""Read the headers of safetensors files: which tensors there are, with their types and sizes.

Reads no weights. A header is JSON of a length that the file states first; longer ones than MOST_BYTES are refused.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bot.types.errors import ModelError

LENGTH_BYTES = 8
MOST_BYTES = 100_000_000
"""Limit of a header, the one of the format; the largest known ones have some MB."""
MOST_DIMENSIONS = 8
MOST_ELEMENTS = 1 << 50

SCALES = re.compile(
    r"(?:qzeros|scales|g_idx|weight_g_idx|(?:weight|input|output|[qkv])_(?:global_)?scale(?:_inv|_2)?|weight_zero_point"
    r"|weight_shape|absmax|quant_map|SCB|weight_format)$|\.quant_state\."
)
"""Tensors that describe quantized weights and hold none."""

PACKED = re.compile(r"(?:\.qweight|\.weight_packed|_blocks)$")
"""Tensors that hold several weights in each number."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor. dtype: as in the file, such as BF16 or I32. end: the offset of its end in the data."""

    name: str
    dtype: str
    elements: int
    end: int


def read_tensors(file: Path) -> list[Tensor]:
    """The tensors of a file. Raises ModelError if it is damaged, or has another length than its header states."""
    try:
        size = file.stat().st_size
        with file.open("rb") as content:
            length = int.from_bytes(content.read(LENGTH_BYTES), "little")
            header = json.loads(content.read(length) if length <= min(size, MOST_BYTES) else b"")
        found = [_tensor(name, each) for name, each in header.items() if name != "__metadata__"]
    except OSError as error:
        raise ModelError(f"{file.name} cannot be read ({error.strerror}).") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file.name} is not a safetensors file.") from error
    whole = LENGTH_BYTES + length + max((tensor.end for tensor in found), default=0)
    if size != whole:
        raise ModelError(f"{file.name} has {size:,} bytes instead of {whole:,}.")
    return found


def parameters_of(tensors: Iterable[Tensor], bits: int) -> int:
    """The number of weights. bits: of one weight in packed tensors, and in those of bitsandbytes' 4-bit format."""
    found = list(tensors)
    states = {tensor.name.partition(".quant_state.")[0] for tensor in found if ".quant_state." in tensor.name}
    total = 0
    for tensor in found:
        if SCALES.search(tensor.name):
            continue
        packed = PACKED.search(tensor.name) or tensor.name in states
        width = {"I32": 32, "I64": 64}.get(tensor.dtype, 8)
        total += tensor.elements * width // bits if packed else tensor.elements
    return total


def _tensor(name: str, described: dict[str, object]) -> Tensor:
    shape, offsets = described["shape"], described["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(shape) > MOST_DIMENSIONS:
        raise TypeError("not a tensor")
    if not all(isinstance(size, int) and 0 <= size < MOST_ELEMENTS for size in (*shape, offsets[1])):
        raise ValueError("not a size")
    return Tensor(name, str(described["dtype"]), math.prod(shape), offsets[1])
