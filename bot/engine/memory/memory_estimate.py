"""What a model that was never loaded here will take: an estimate from its files, until a load has measured it.

In: a ModelSource. Out: MB of RAM and of GPU memory, the KV cache that it should at least get, and a margin. Raises
ModelError where the load itself would.
"""

import json
import math
from pathlib import Path

from bot.engine.memory.leak_detector import Taken
from bot.models import model_directory
from bot.models.fit import CONVERSATION_TOKENS, CPU_KV_MB, kv_mb, layers_mb, weights_mb
from bot.models.hardware import choose_dtype, detect, is_packed
from bot.models.model_spec import ModelSpec
from bot.types.engine import ModelSource
from bot.types.errors import ModelError

MARGIN_SHARE, MARGIN_MB = 1.1, 256
"""Weights count so many times, and so much is added: libraries that wake up, and what one step computes."""

CONVERSATIONS = 4
"""On a GPU the KV cache takes what is left; room for so many conversations is made for it."""


def expected(source: ModelSource) -> Taken:
    """What it will take, its KV cache included."""
    hardware = detect("cpu" if source.gpu_layers == 0 else source.device)
    dtype = choose_dtype(source.dtype, hardware, source.quantization)
    folder = Path(source.path)
    spec = model_directory.from_config(ModelSpec(name=source.name, parameters=numbers_in(folder)), folder)
    weights = weights_mb(spec, dtype, source.quantization, is_packed(dtype, hardware, source.quantization))
    if not hardware.gpu:
        return Taken(int(MARGIN_SHARE * weights) + (source.kv_cache_mb or CPU_KV_MB) + MARGIN_MB, 0)
    kept = spec.layers if source.gpu_layers is None else min(source.gpu_layers, spec.layers)
    away = 1 - kept / spec.layers if spec.layers else 0.0
    below = MARGIN_SHARE * away * layers_mb(spec, dtype, "none")  # what stays in RAM is not quantized
    above = MARGIN_SHARE * (weights - away * layers_mb(spec, dtype, source.quantization))
    ram = int(below) + source.kv_offload_mb + MARGIN_MB
    return Taken(ram, int(above) + wanted_kv_mb(source, dtype) + MARGIN_MB)


def wanted_kv_mb(source: ModelSource, dtype: str) -> int:
    """On a GPU: the KV cache that is set, or one for a few conversations."""
    if source.kv_cache_mb is not None:
        return source.kv_cache_mb
    spec = model_directory.from_config(ModelSpec(name=source.name), Path(source.path))
    return kv_mb(spec, dtype, CONVERSATIONS * CONVERSATION_TOKENS)


def numbers_in(folder: Path) -> int:
    """How many numbers its weights are. Raises ModelError for a file that is no safetensors file."""
    return sum(_numbers(folder / name) for name in model_directory.weight_files(folder))


def _numbers(file: Path) -> int:
    """Read from the file's header: its length in 8 bytes, and then JSON with every tensor's shape."""
    try:
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(min(length, file.stat().st_size)))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"A file in {file.parent} is damaged; fetch the model again.") from error
