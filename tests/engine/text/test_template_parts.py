"""Tests templates that take contents only as a list of parts, as models have that also take images."""

from typing import Any

import pytest
from transformers import BatchEncoding

from bot.engine.text.prompts import PromptBuilder
from bot.types.errors import ModelError
from tests.support.builders.prompt_tokenizers import CHATML, ask, bot, byte_level, user

PARTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% for part in message.content %}{% if part.type == 'image' %}<image>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = PARTS.replace(
    "{% for part in", "{% if message.content is string %}{{ raise_exception('no text') }}{% endif %}{% for part in"
)
FIRST_PART = CHATML.replace("message['content']", "message['content'][0]['text']")
PLAIN_SYSTEM = (  # the system prompt as text, all else as parts
    "{% if messages[0].role == 'system' %}{{ '<|im_start|>system\n' ~ messages[0].content ~ '<|im_end|>\n' }}"
    "{% set messages = messages[1:] %}{% endif %}" + PARTS
)
JSON_SYSTEM = PLAIN_SYSTEM.replace("messages[0].content", "messages[0].content | tojson")
CHAT = (user("What is 1 + 1?"), bot("It is 2."), user("And 2 + 2?"))


@pytest.mark.parametrize("template", [PARTS, STRICT, FIRST_PART], ids=["loses text", "refuses text", "first part"])
def test_a_prompt_is_what_the_library_makes_of_parts(template: str) -> None:
    tokenizer = byte_level(template)
    found = PromptBuilder(tokenizer, "", 4096).build(ask(*CHAT, system="Be brief."), 100).ids
    said = [("system", "Be brief."), ("user", CHAT[0].text), ("assistant", CHAT[1].text), ("user", CHAT[2].text)]
    messages: list[Any] = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    encoding = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert isinstance(encoding, BatchEncoding)
    assert found == encoding["input_ids"]


def test_a_prompt_of_parts_equals_one_of_text() -> None:
    prompts = [PromptBuilder(byte_level(template), "", 4096).build(ask(*CHAT), 100) for template in (PARTS, CHATML)]
    assert prompts[0].ids == prompts[1].ids


@pytest.mark.parametrize("template", [PLAIN_SYSTEM, JSON_SYSTEM], ids=["printed", "json"])
def test_a_list_is_never_printed_into_the_prompt(template: str) -> None:
    tokenizer = byte_level(template)
    text = tokenizer.decode(PromptBuilder(tokenizer, "", 4096).build(ask(*CHAT, system="Be brief."), 100).ids)
    assert isinstance(text, str)
    assert text.startswith("<|im_start|>user\nBe brief.\n\nWhat is 1 + 1?<|im_end|>")
    assert "type" not in text


def test_parts_end_an_answer_too() -> None:
    tokenizer = byte_level(PARTS)
    found = PromptBuilder(tokenizer, "", 4096).end_ids
    assert [tokenizer.convert_ids_to_tokens(number) for number in found] == ["<|im_end|>"]


def test_a_template_that_takes_neither_is_refused_with_the_reason_for_text() -> None:
    with pytest.raises(ModelError, match="cannot render a conversation: nothing at all"):
        PromptBuilder(byte_level("{{ raise_exception('nothing at all') }}"), "", 4096)
