"""Convert a GGUF file to config, tokenizer with chat template, and bf16 safetensors, in a one-shot process.

Usage: `python -m bot.models.gguf_conversion GGUF DIRECTORY`. Supports models with a byte-level BPE tokenizer. Prints
progress to stdout as JSON lines; on failure prints one sentence and exits with status 1. A separate process, because
the service must not import torch.
"""

import json
import sys
from pathlib import Path

from bot.models.gguf_header import read_gguf
from bot.models.progress import progress_bars_to

SAVED_MODE = 0o644  # safetensors creates files with mode 0600, which a service under another user cannot read


def convert(gguf: Path, folder: Path) -> None:
    """Convert `gguf` and write the result to `folder`. Raises the exceptions of transformers for unreadable files."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    names = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **names)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16, **names
    )
    if read_gguf(gguf).pre_tokenizer == "smollm":
        # transformers ignores this field of the file; its rule makes every digit a separate token.
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


def _main(arguments: list[str]) -> int:
    def on_progress(done: int, total: int) -> None:
        print(json.dumps({"done": done, "total": total}), flush=True)

    try:
        with progress_bars_to(on_progress):
            convert(Path(arguments[0]), Path(arguments[1]))
    except Exception as error:
        print((str(error).strip().splitlines() or [type(error).__name__])[0])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
