"""Writes small GGUF files with the `gguf` library, whole or split."""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

LAYERS, HEADS, KV_HEADS, HEAD_DIM, WINDOW = 2, 4, 2, 16, 512
HIDDEN = HEADS * HEAD_DIM
TOKENS = 300
TEMPLATE = "{{ messages }}"


def write_gguf(file: Path, *, layer: str = "0", template: str = TEMPLATE, facts: bool = True) -> Path:
    """Writes a model of 300 x 64 float16 embeddings and one Q8_0 matrix of 64 x 64. facts: its metadata."""
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(file, "llama")
    if facts:
        add_facts(writer, template)
    writer.add_tensor("token_embd.weight", np.ones((TOKENS, HIDDEN), np.float16))
    quantized = np.zeros((HIDDEN, HIDDEN // 32 * 34), np.uint8)
    writer.add_tensor(f"blk.{layer}.attn_q.weight", quantized, raw_dtype=GGMLQuantizationType.Q8_0)
    close(writer)
    return file


def write_split(first: Path, parts: int = 3) -> list[Path]:
    """Writes a model of several files, of which only the first has the metadata."""
    names = [first.with_name(f"{first.name}-{number:05}-of-{parts:05}.gguf") for number in range(1, parts + 1)]
    for number, name in enumerate(names):
        write_gguf(name, layer=str(number), facts=number == 0)
    return names


def add_facts(writer: GGUFWriter, template: str = TEMPLATE) -> None:
    """Adds the metadata of a small Llama model."""
    writer.add_name("Tiny")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(WINDOW)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([f"token {number}" for number in range(TOKENS)])
    if template:
        writer.add_chat_template(template)


def close(writer: GGUFWriter) -> None:
    """Writes everything that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
