"""Converts a model directory to one GGUF file of 16-bit weights, for llama.cpp.

`python -m bench.peering.gguf_file DIRECTORY FILE --type float16`. Takes a Llama model with a byte-level BPE tokenizer,
as `bot.models.gguf_conversion` writes it. Writes the same weights in float16 or bfloat16, norms in float32, the
tokenizer and the chat template. Runs in its own process, because it imports torch.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.constants import MODEL_ARCH
from gguf.tensor_mapping import get_tensor_name_map
from safetensors.torch import load_file

TYPES = {
    "float16": (torch.float16, GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (torch.bfloat16, GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
}
PRE_TOKENIZER = "smollm"


def write(folder: Path, file: Path, kind: str) -> None:
    """Writes `file`; renames it from a temporary name when complete."""
    unfinished = file.with_suffix(".part")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    writer = GGUFWriter(unfinished, "llama")
    _sizes(writer, config, TYPES[kind][2])
    _tokenizer(writer, folder, config)
    _tensors(writer, folder, config, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.replace(file)


def _sizes(writer: GGUFWriter, config: dict[str, Any], file_type: LlamaFileType) -> None:
    writer.add_file_type(file_type)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _tokenizer(writer: GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    known = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary: dict[str, int] = known["model"]["vocab"]
    special = {each["content"] for each in known["added_tokens"] if each["special"]}
    vocabulary |= {each["content"]: each["id"] for each in known["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    assert [vocabulary[token] for token in tokens] == list(range(config["vocab_size"])), "the vocabulary has gaps"
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in known["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text("utf-8"))


def _tensors(writer: GGUFWriter, folder: Path, config: dict[str, Any], kind: str) -> None:
    dtype, raw, _ = TYPES[kind]
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in load_file(folder / "model.safetensors").items():
        target = names.get_name(name, try_suffixes=(".weight",))
        assert target, f"no name for {name}"
        for part, number in heads.items():
            if part in name:
                tensor = _interleaved(tensor, number)
        if tensor.ndim == 1:
            writer.add_tensor(target, tensor.to(torch.float32).numpy())
        else:
            bits = tensor.to(dtype).contiguous().view(torch.uint8).numpy()
            writer.add_tensor(target, bits, raw_dtype=raw)


def _interleaved(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorders rows for llama.cpp's rotary embedding, which rotates adjacent pairs; transformers rotates halves."""
    halves = tensor.view(heads, 2, tensor.shape[0] // heads // 2, tensor.shape[1])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.peering.gguf_file")
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--type", choices=TYPES, default="float16")
    given = parser.parse_args()
    write(given.folder, given.file, given.type)
