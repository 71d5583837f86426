"""Writes a GGUF file with random weights that lets llama.cpp show pictures to a language model (LLaVA's shape)."""

from pathlib import Path

import gguf
import numpy as np
from gguf.constants import Keys

WIDTH, INNER, SIDE, PATCH = 32, 64, 96, 16
PARTS = ("weight", "bias")
PICTURE_TOKENS = (SIDE // PATCH) ** 2
"""Tokens of a picture."""


def write_mmproj(file: Path, hidden: int) -> Path:
    """Writes the file for a language model of this width, and returns it."""
    made = np.random.default_rng(1)
    writer = gguf.GGUFWriter(file, "clip")
    vision = Keys.ClipVision
    writer.add_bool(Keys.Clip.HAS_VISION_ENCODER, True)
    writer.add_string(Keys.Clip.PROJECTOR_TYPE, "mlp")
    numbers = {
        vision.PROJECTION_DIM: hidden,
        vision.IMAGE_SIZE: SIDE,
        vision.PATCH_SIZE: PATCH,
        vision.EMBEDDING_LENGTH: WIDTH,
        vision.FEED_FORWARD_LENGTH: INNER,
        vision.BLOCK_COUNT: 1,
        vision.Attention.HEAD_COUNT: 2,
    }
    for name, number in numbers.items():
        writer.add_uint32(name, number)
    writer.add_float32(vision.Attention.LAYERNORM_EPS, 1e-6)
    writer.add_array(vision.IMAGE_MEAN, [0.5, 0.5, 0.5])
    writer.add_array(vision.IMAGE_STD, [0.5, 0.5, 0.5])
    writer.add_bool(vision.USE_GELU, True)
    layers = {
        "v.patch_embd": (WIDTH, 3, PATCH, PATCH),
        **{f"v.blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "out")},
        "v.blk.0.ffn_up": (INNER, WIDTH),
        "v.blk.0.ffn_down": (WIDTH, INNER),
        "mm.0": (hidden, WIDTH),
        "mm.2": (hidden, hidden),
    }
    tensors = {f"{name}.weight": shape for name, shape in layers.items()}
    tensors |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    tensors |= {f"{name}.{part}": (WIDTH,) for name in ("v.blk.0.ln1", "v.blk.0.ln2", "v.post_ln") for part in PARTS}
    tensors["v.position_embd.weight"] = ((SIDE // PATCH) ** 2, WIDTH)
    for name, shape in tensors.items():
        writer.add_tensor(name, (0.1 * made.standard_normal(shape)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
