"""Computes how much memory a model and its KV cache take.

`expected` estimates it from a model's files, for models that no load has measured yet: with the least KV cache that
it should get, and a margin. `cache_blocks` is the size of a loaded model's KV cache: from the setting, the free GPU
memory, or a CPU default.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from bot.engine.batching.batch import CannotBatch
from bot.engine.memory.leak_detector import MemoryUsage
from bot.models import model_directory
from bot.models.fit import CONVERSATION_TOKENS, CPU_KV_MB, kv_mb, layers_mb, weights_mb
from bot.models.hardware import MB, choose_dtype, detect, is_packed
from bot.models.model_spec import ModelSpec
from bot.types.engine import ModelSource
from bot.types.errors import ModelError

MARGIN_SHARE, MARGIN_MB = 1.1, 256
"""Factor on the weights, and MB on top, for libraries' own memory and one step's activations."""

PICTURES_MB = 512
"""For what a model that sees computes of a picture."""

GPU_SHARE = 0.6
"""Share of the GPU memory that is free after loading for the KV cache; the rest is for activations, masks and copies
of cached keys.
"""

PACKED_VALUES = {"U8": 0.5, "I8": 0.5, "I32": 2.0}
"""16-bit values that take as much memory as one element of a dtype which holds several quantized weights."""

CONVERSATIONS = 4
"""On a GPU the KV cache takes what is left; room is made for at least so many conversations."""


def expected(source: ModelSource) -> MemoryUsage:
    """Return the memory that the model will take, its KV cache included. Raises ModelError where a load would."""
    hardware = detect("cpu" if source.gpu_layers == 0 else source.device)
    dtype = choose_dtype(source.dtype, hardware, source.quantization)
    folder = Path(source.path)
    spec = model_directory.from_config(ModelSpec(name=source.name, parameters=parameter_count(folder)), folder)
    weights = weights_mb(spec, dtype, source.quantization, is_packed(dtype, hardware, source.quantization))
    margin = MARGIN_MB + PICTURES_MB * model_directory.sees(folder)
    if not hardware.gpu:
        return MemoryUsage(int(MARGIN_SHARE * weights) + (source.kv_cache_mb or CPU_KV_MB) + margin, 0)
    kept = spec.layers if source.gpu_layers is None else min(source.gpu_layers, spec.layers)
    away = 1 - kept / spec.layers if spec.layers else 0.0
    below = MARGIN_SHARE * away * layers_mb(spec, dtype, "none")  # layers in RAM are not quantized
    above = MARGIN_SHARE * (weights - away * layers_mb(spec, dtype, source.quantization))
    ram = int(below) + source.kv_offload_mb + MARGIN_MB
    return MemoryUsage(ram, int(above) + wanted_kv_mb(source, dtype) + margin)


def wanted_kv_mb(source: ModelSource, dtype: str) -> int:
    """Return the KV cache (MB) of a model on a GPU: the setting, or one for CONVERSATIONS conversations."""
    if source.kv_cache_mb is not None:
        return source.kv_cache_mb
    spec = model_directory.from_config(ModelSpec(name=source.name), Path(source.path))
    return CONVERSATIONS * kv_mb(spec, dtype, CONVERSATION_TOKENS)


def parameter_count(folder: Path) -> int:
    """Return the number of parameters in a model's weight files. Raises ModelError for an invalid safetensors file.

    For weights that stay quantized it is the number of 16-bit values that take the same memory.
    """
    method = model_directory.quantization_method(model_directory.read_json(folder / model_directory.CONFIG))
    packed = {"U8": 2.0} if method == "mxfp4" else PACKED_VALUES if method else {}
    return sum(_numbers(folder / name, packed) for name in model_directory.weight_files(folder))


def _numbers(file: Path, packed: Mapping[str, float]) -> int:
    """Count the parameters in the file's header: its length in 8 bytes, then JSON with every tensor's shape.

    packed: how many parameters one element of a dtype counts for, if not one.
    """
    try:
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(min(length, file.stat().st_size)))
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        return int(sum(math.prod(tensor["shape"]) * packed.get(tensor["dtype"], 1.0) for tensor in tensors))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"A file in {file.parent} is damaged; fetch the model again.") from error


def bytes_per_token(model: PreTrainedModel) -> int:
    """Return the bytes of one token's keys and values in all layers. Raises CannotBatch if layers differ in shape."""
    config = model.config.get_text_config()
    if getattr(config, "is_heterogeneous", False):  # Gemma 4
        raise CannotBatch("its layers keep keys and values of different shapes")
    width = int(find_num_key_value_heads(config)) * int(find_head_dim(config))
    return 2 * int(config.num_hidden_layers) * width * int(model.dtype.itemsize)


def cache_blocks(model: PreTrainedModel, block: int, running: int, window: int, setting_mb: int | None) -> int:
    """Return the number of blocks of `block` tokens: at least 1, at most those of `running` full context windows."""
    if setting_mb is not None:
        budget = setting_mb * MB
    elif model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        budget = int(free * GPU_SHARE)
    else:
        budget = CPU_KV_MB * MB
    useful = running * -(-window // block)
    return max(1, min(useful, budget // (bytes_per_token(model) * block)))
