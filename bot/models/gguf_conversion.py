"""A one-shot process that turns a GGUF into a directory like those of the hub.

`python -m bot.models.gguf_conversion GGUF DIRECTORY`. In: a GGUF file of a model with a byte-level BPE tokenizer. Out:
config, tokenizer with chat template, bf16 safetensors; on stdout a line of JSON for every step done, or one sentence
and exit status 1. It imports torch, which is why it is a process.
"""

import json
import re
import struct
import sys
from pathlib import Path

from bot.models.progress import told

HEADER_BYTES = 1 << 16
PRE_TOKENIZER = rb"tokenizer\.ggml\.pre\x08\0\0\0(.{8})(.{32})"
"""A GGUF string field: its name, its type (8), its length, its text."""

SAVED_MODE = 0o644  # safetensors makes files that only their owner reads, and a service has an owner of its own


def convert(gguf: Path, folder: Path) -> None:
    """Read `gguf`, write `folder`. Raises whatever transformers raises for a file that it cannot read."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    names = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **names)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16, **names
    )
    if _pre_tokenizer(gguf) == "smollm":
        # The file names this rule, transformers does not read it: every digit is a token of its own.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    tokenizer.model_max_length = model.config.max_position_embeddings
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(SAVED_MODE)


def _pre_tokenizer(gguf: Path) -> str:
    """The name of the rule that splits text into words, as the beginning of the file gives it; '' for none.

    Looked for by hand: GGUFReader takes seconds for the vocabulary that stands behind it.
    """
    with gguf.open("rb") as content:
        found = re.search(PRE_TOKENIZER, content.read(HEADER_BYTES), re.DOTALL)
    return found[2][: struct.unpack("<Q", found[1])[0]].decode(errors="replace") if found else ""


def _main(arguments: list[str]) -> int:
    def tell(done: int, total: int) -> None:
        print(json.dumps({"done": done, "total": total}), flush=True)

    try:
        with told(tell):
            convert(Path(arguments[0]), Path(arguments[1]))
    except Exception as error:
        print((str(error).strip().splitlines() or [type(error).__name__])[0])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
