"""Computes the size of a model's KV cache: from the setting, the free GPU memory after the load, or a CPU default."""

import torch
from transformers import PreTrainedModel
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from bot.engine.batching.batch import MAX_RUNNING

CPU_DEFAULT_MB = 512
GPU_SHARE = 0.6
"""Share of the GPU memory that is free after loading; the rest is for activations, masks and copies of cached keys."""

MB = 1024 * 1024


def bytes_per_token(model: PreTrainedModel) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    config = model.config.get_text_config()
    width = int(find_num_key_value_heads(config)) * int(find_head_dim(config))
    return 2 * int(config.num_hidden_layers) * width * int(model.dtype.itemsize)


def cache_blocks(model: PreTrainedModel, block: int, window: int, setting_mb: int | None) -> int:
    """Return the number of blocks of `block` tokens: at least 1, at most those of MAX_RUNNING full context windows."""
    if setting_mb is not None:
        budget = setting_mb * MB
    elif model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        budget = int(free * GPU_SHARE)
    else:
        budget = CPU_DEFAULT_MB * MB
    useful = MAX_RUNNING * -(-window // block)
    return max(1, min(useful, budget // (bytes_per_token(model) * block)))
