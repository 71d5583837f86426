"""Builds a tokenizer for every catalog model, with that model's control tokens and chat template.

SmolLM2's and Mistral's tokenizers are the real ones. The other vocabularies are not available offline; these tests only
need the special tokens and the text that the template writes around messages.
"""

from collections.abc import Callable
from functools import cache

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bot.config.settings import load_settings
from bot.models.catalog import Catalog
from bot.models.pull import pull
from tests.support.builders.prompt_tokenizers import (
    CHATML,
    LLAMA_3,
    LLAMA_3_TOKENS,
    PHI_4,
    PHI_4_TOKENS,
    byte_level,
    mistral,
)

QWEN_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
QWEN_ADDED = tuple(
    AddedToken(text, normalized=False, special=False)
    for text in (
        *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
        *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    )
)
PHI_4_MINI_TOKENS = (
    *("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    *("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>", "<|endofprompt|>"),
)
PHI_4_MINI = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LLAMA_31_TOKENS = (
    *LLAMA_3_TOKENS,
    *("<|eom_id|>", "<|finetune_right_pad_id|>", *(f"<|reserved_special_token_{number}|>" for number in range(5))),
)
PHI_2_ADDED = tuple(AddedToken(" " * count, normalized=False) for count in (2, 4, 8))


@cache
def smollm2() -> PreTrainedTokenizerBase:
    """SmolLM2's tokenizer, from the model cache."""
    settings = load_settings()
    folder = pull(Catalog.of(settings).get("smollm2"), settings)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


MAKERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "smollm2": smollm2,
    "smollm2-1.7b": smollm2,
    "phi-2": lambda: byte_level(None, ("<|endoftext|>",), PHI_2_ADDED),
    "phi-4-mini": lambda: byte_level(PHI_4_MINI, PHI_4_MINI_TOKENS),
    "qwen3-4b-instruct-2507": lambda: byte_level(CHATML, QWEN_TOKENS, QWEN_ADDED),
    "mistral-7b-instruct-v0.3": mistral,
    "qwen2.5-coder-7b-instruct": lambda: byte_level(CHATML, QWEN_TOKENS, QWEN_ADDED),
    "llama-3.1-8b-instruct": lambda: byte_level(LLAMA_3, LLAMA_31_TOKENS),
    "phi-4": lambda: byte_level(PHI_4, PHI_4_TOKENS),
    "qwen2.5-14b-instruct": lambda: byte_level(CHATML, QWEN_TOKENS, QWEN_ADDED),
}
"""Tokenizer factories by catalog name; each new catalog model needs a line here."""
