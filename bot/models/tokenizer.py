"""Reads a model's tokenizer; used where transformers is imported."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bot.models.model_directory import read_json

PROCESSORS_TEMPLATE = "chat_template.json"
"""Where older repositories of models that see keep their template. Transformers reads it with the processor only."""


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder, with its chat template, if there is one. Raises what a damaged one raises."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    if not tokenizer.chat_template and (folder / PROCESSORS_TEMPLATE).is_file():
        template = read_json(folder / PROCESSORS_TEMPLATE).get("chat_template")
        tokenizer.chat_template = template if isinstance(template, str) else None
    return tokenizer
