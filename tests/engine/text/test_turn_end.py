"""Tests what ends an answer besides the tokenizer's own end: whatever the template writes right after an answer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from bot.engine.client.process import EngineProcess
from bot.engine.text.prompts import PromptBuilder
from bot.types.messages import FinishReason
from tests.support.builders.catalog_tokenizers import HARMONY, HARMONY_TOKENS, MAKERS
from tests.support.builders.engine_requests import ask, load
from tests.support.builders.prompt_tokenizers import (
    CHATML,
    LLAMA_3,
    LLAMA_3_TOKENS,
    MISTRAL,
    PHI_4,
    PHI_4_EARLY,
    PHI_4_TOKENS,
    PHI_4_TWICE,
    ZEPHYR,
    byte_level,
    mistral,
)
from tests.support.builders.tiny_models import CHATML as TINY

pytest_plugins = ["tests.support.fixtures.engine"]

GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "{{ '<start_of_turn>' + role + '\n' + message.content + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '<s>[INST] ' + message.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GLM = (  # nothing ends an answer; the next turn's role begins
    "[gMASK]{% for message in messages %}{{ '<|' + message.role + '|>\n' + message.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
VICUNA = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
MARKED_UP = (
    "{% for message in messages %}<b>{{ message.role }}</b>{{ message.content }}<br>{% endfor %}"
    "{% if add_generation_prompt %}<b>assistant</b>{% endif %}"
)
THINKING = CHATML.replace("assistant\n'", "assistant\n<think>\n\n</think>\n\n'")
THINK_TOKENS = tuple(AddedToken(text, normalized=False, special=False) for text in ("<think>", "</think>"))
EXAONE = CHATML.replace("<|im_end|>", "[|endofturn|]")

Tokenizer = Callable[[], PreTrainedTokenizerBase]

ENDS: dict[str, tuple[Tokenizer, str]] = {
    "eos <|endoftext|>, template <|im_end|>": (lambda: byte_level(CHATML), "<|im_end|>"),
    "a line feed before the end": (lambda: byte_level(CHATML.replace("'<|im_end|>'", "'\n<|im_end|>'")), "<|im_end|>"),
    "no line feed after the end": (
        lambda: byte_level(CHATML.replace("'<|im_end|>' + '\n'", "'<|im_end|>'")),
        "<|im_end|>",
    ),
    "a thinking model": (lambda: byte_level(THINKING, added=THINK_TOKENS), "<|im_end|>"),
    "a token that is not special": (
        lambda: byte_level(CHATML, ("<|endoftext|>", "<|im_start|>"), [AddedToken("<|im_end|>", special=False)]),
        "<|im_end|>",
    ),
    "Llama 3": (lambda: byte_level(LLAMA_3, LLAMA_3_TOKENS), "<|eot_id|>"),
    "Gemma": (lambda: byte_level(GEMMA, ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")), "<end_of_turn>"),
    "Llama 2": (lambda: byte_level(LLAMA_2, ("</s>", "<s>")), "</s>"),
    "Mistral": (lambda: mistral(), "</s>"),
    "Mistral, another template": (lambda: byte_level(MISTRAL, ("</s>", "<s>")), "</s>"),
    "Zephyr": (lambda: byte_level(ZEPHYR, ("</s>",)), "</s>"),
    "Phi-4": (lambda: byte_level(PHI_4, PHI_4_TOKENS), "<|im_end|>"),
    "Phi-4, early header": (lambda: byte_level(PHI_4_EARLY, PHI_4_TOKENS), "<|im_end|>"),
    "Phi-4, two headers": (lambda: byte_level(PHI_4_TWICE, PHI_4_TOKENS), "<|im_end|>"),
    "GLM": (lambda: byte_level(GLM, ("<|endoftext|>", "<|user|>", "<|assistant|>")), "<|user|>"),
    "harmony": (lambda: byte_level(HARMONY, HARMONY_TOKENS), ""),
    "labels": (lambda: byte_level(VICUNA, ("</s>",)), ""),
}
"""A tokenizer and the token that must end its answers, '' for none but its own end."""

MARKERS = {
    "a marker without a token": (CHATML, "<|im_end|>"),
    "a bracketed marker": (EXAONE, "[|endofturn|]"),
    "DeepSeek's bars": (
        CHATML.replace("<|im_end|>", "<\uff5cend\u2581of\u2581turn\uff5c>"),
        "<\uff5cend\u2581of\u2581turn\uff5c>",
    ),
    "Gemma's": (GEMMA, "<end_of_turn>"),
    "tags of HTML": (MARKED_UP, ""),
}
"""A template and the text that must end its answers if the tokenizer has no such token."""


def builder(tokenizer: PreTrainedTokenizerBase) -> PromptBuilder:
    return PromptBuilder(tokenizer, "", 4096)


@pytest.mark.parametrize("name", ENDS)
def test_what_the_template_writes_after_an_answer_ends_one(name: str) -> None:
    make, end = ENDS[name]
    tokenizer = make()
    found = builder(tokenizer)
    assert [tokenizer.convert_ids_to_tokens(number) for number in found.end_ids] == ([end] if end else [])
    assert found.end_texts == ()


@pytest.mark.parametrize("name", MARKERS)
def test_a_marker_that_is_plain_text_ends_an_answer_as_text(name: str) -> None:
    template, end = MARKERS[name]
    found = builder(byte_level(template, ("</s>", "<s>")))
    assert found.end_ids == frozenset()
    assert found.end_texts == ((end,) if end else ())


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.usefixtures("smollm2_dir")
def test_every_model_of_the_catalog_has_an_end(name: str) -> None:
    tokenizer = MAKERS[name]()
    found = PromptBuilder(tokenizer, "phi-2" if name == "phi-2" else "", 4096)
    ends = [tokenizer.convert_ids_to_tokens(number) for number in found.end_ids]
    assert found.end_texts == ()
    assert ends == ([expected(name)] if expected(name) else [])


def expected(name: str) -> str:
    if name == "phi-2" or name.startswith("gpt-oss"):
        return ""
    if name.startswith(("mistral", "ministral")):
        return "</s>"
    return "<turn|>" if name.startswith("gemma") else "<|im_end|>"


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("batching", [True, False], ids=["batch", "one at a time"])
async def test_an_answer_ends_at_the_templates_end_though_the_repository_names_another(
    engine: EngineProcess, tiny: dict[str, Path], tmp_path: Path, batching: bool
) -> None:
    folder = silent(tiny["llama"], tmp_path / "model", template=TINY.replace("<|im_end|>", "<|endoftext|>"))
    await load(engine, folder, batching=batching)
    answer = await ask(engine, f"end {batching}", "Where are the keys?")
    assert (answer.finish_reason, answer.usage.generated_tokens) == (FinishReason.STOP, 1)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
async def test_each_of_several_ends_of_a_repository_ends_an_answer(
    engine: EngineProcess, tiny: dict[str, Path], tmp_path: Path, file: str
) -> None:
    folder = silent(tiny["llama"], tmp_path / "model", template=VICUNA)
    (folder / "generation_config.json").unlink()
    content = json.loads((folder / file).read_text()) if file == "config.json" else {}
    (folder / file).write_text(json.dumps(content | {"eos_token_id": [5, 0]}))
    await load(engine, folder)
    answer = await ask(engine, f"ends {file}", "Where are the keys?")
    assert (answer.finish_reason, answer.usage.generated_tokens) == (FinishReason.STOP, 1)


def silent(tiny: Path, folder: Path, template: str) -> Path:
    """A copy of a model that only says token 0, <|endoftext|>, since all its logits are equal."""
    shutil.copytree(tiny, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.nn.init.zeros_(model.model.norm.weight)
    model.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": template}))
    return folder
