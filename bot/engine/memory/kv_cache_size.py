"""How large the KV cache of a model may be: from the setting, or from the memory that is free once the weights are
loaded.

In: a loaded model, its context window, the setting in MB or None. Out: blocks of the batch's cache.
"""

import torch
from transformers import PreTrainedModel
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from bot.engine.batching.batch import MAX_RUNNING

CPU_DEFAULT_MB = 512
GPU_SHARE = 0.6
"""Of the GPU memory that is free after loading; the rest is for activations, masks and copies of what is read."""

MB = 1024 * 1024


def bytes_per_token(model: PreTrainedModel) -> int:
    """Keys and values of one token in every layer."""
    config = model.config.get_text_config()
    width = int(find_num_key_value_heads(config)) * int(find_head_dim(config))
    return 2 * int(config.num_hidden_layers) * width * int(model.dtype.itemsize)


def cache_blocks(model: PreTrainedModel, block: int, window: int, setting_mb: int | None) -> int:
    """Blocks of `block` tokens: at least one, at most what MAX_RUNNING full context windows need."""
    if setting_mb is not None:
        budget = setting_mb * MB
    elif model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        budget = int(free * GPU_SHARE)
    else:
        budget = CPU_DEFAULT_MB * MB
    useful = MAX_RUNNING * -(-window // block)
    return max(1, min(useful, budget // (bytes_per_token(model) * block)))
