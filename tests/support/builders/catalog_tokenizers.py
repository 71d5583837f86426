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
QWEN_THINKING = CHATML.replace(
    "<|im_start|>assistant\n'",
    "<|im_start|>assistant\n' + ('<think>\n' if enable_thinking | default(true) else '<think>\n\n</think>\n\n')",
)
QWEN_3_8 = (
    "{% if enable_thinking | default(true) %}{% set effort = reasoning_effort | default('xhigh') %}"
    "{% if effort not in ('xhigh', 'medium', 'low') %}{{ raise_exception('Unexpected reasoning effort ' ~ effort) }}"
    "{% endif %}{{ 'Effort: ' ~ effort }}{% endif %}"
) + QWEN_THINKING
GEMMA_4 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<|turn>' + role + '\n' + message['content'] + '<turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}"
    "{% if not (enable_thinking | default(false)) %}{{ '<|channel>thought\n<channel|>' }}{% endif %}{% endif %}"
)
GEMMA_4_TOKENS = ("<eos>", "<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|image|>", "<|tool_call>")
MISTRAL_3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST]' + message['content'] + '[/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_3_TOKENS = ("</s>", "<s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]", "[IMG]")
HARMONY = (  # in a new answer, the model writes the channel itself, and messages that end before the answer does
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}"
    "{% else %}{{ '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
HARMONY_TOKENS = ("<|return|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>")
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
    "qwen3-1.7b": lambda: byte_level(QWEN_THINKING, QWEN_TOKENS, QWEN_ADDED),
    "phi-2": lambda: byte_level(None, ("<|endoftext|>",), PHI_2_ADDED),
    "qwen3-4b-instruct-2507": lambda: byte_level(CHATML, QWEN_TOKENS, QWEN_ADDED),
    "mistral-7b-instruct-v0.3": mistral,
    "gemma-4-e4b": lambda: byte_level(GEMMA_4, GEMMA_4_TOKENS),
    "ministral-3-8b": lambda: byte_level(MISTRAL_3, MISTRAL_3_TOKENS),
    "qwen3.5-9b": lambda: byte_level(QWEN_THINKING, QWEN_TOKENS, QWEN_ADDED),
    "gemma-4-12b": lambda: byte_level(GEMMA_4, GEMMA_4_TOKENS),
    "mellum2-12b": lambda: byte_level(CHATML, QWEN_TOKENS, QWEN_ADDED),
    "ministral-3-14b": lambda: byte_level(MISTRAL_3, MISTRAL_3_TOKENS),
    "phi-4": lambda: byte_level(PHI_4, PHI_4_TOKENS),
    "gpt-oss-20b": lambda: byte_level(HARMONY, HARMONY_TOKENS),
    "gemma-4-26b-a4b": lambda: byte_level(GEMMA_4, GEMMA_4_TOKENS),
    "qwen3.8-27b": lambda: byte_level(QWEN_3_8, QWEN_TOKENS, QWEN_ADDED),
    "gemma-4-31b": lambda: byte_level(GEMMA_4, GEMMA_4_TOKENS),
    "qwen3.6-35b-a3b": lambda: byte_level(QWEN_THINKING, QWEN_TOKENS, QWEN_ADDED),
    "gpt-oss-120b": lambda: byte_level(HARMONY, HARMONY_TOKENS),
}
"""Tokenizer factories by catalog name; each new catalog model needs a line here."""
