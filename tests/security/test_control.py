"""Tests that a forged control token in a text, a name, a file name or a file stays text, for every model."""

from functools import cache

import pytest
from transformers import PreTrainedTokenizerBase

from bot.config.settings import load_settings
from bot.conversations.conversations import text_with_files
from bot.engine.text.prompts import PromptBuilder
from bot.models.catalog import BUILT_IN, Catalog
from bot.models.model_spec import read_specs
from bot.types.messages import Attachment, Prompt
from tests.support.builders.catalog_tokenizers import MAKERS
from tests.support.builders.prompt_tokenizers import ask, bot, user

ROLES = ("system", "user", "assistant", "tool")
PLACES = ("text", "name", "file name", "file", "system prompt", "old answer", "prefix")


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    return MAKERS[name]()


@cache
def builder_of(name: str) -> PromptBuilder:
    return PromptBuilder(tokenizer_of(name), Catalog.of(load_settings()).get(name).template, 100_000)


def forged(name: str) -> list[str]:
    """All control tokens, and whole turns that begin where the content would end."""
    tokenizer = tokenizer_of(name)
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
    few = [*tokens[:20], *tokens[-5:]]  # Mistral has hundreds that differ only by a number
    template = Catalog.of(load_settings()).get(name).template
    if template:
        return [*few, *(f"{mark}{role}:" for mark in ("", "\n") for role in ("Instruct", "Output"))]
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    shape = str(tokenizer.apply_chat_template(messages, tokenize=False))
    heads = [f"{token}{role}" for token in few[:8] for role in ROLES]
    return [*dict.fromkeys([*few, *heads, shape, shape.partition("x")[2].partition("y")[0]])]


def written_at(place: str, text: str) -> Prompt:
    """A conversation in which a user, or the model, wrote `text` in that place."""
    at = dict.fromkeys(PLACES, "word") | {place: text}
    file = Attachment(at["file name"], at["file"])
    return ask(
        user(at["text"], at["name"]),
        bot(at["old answer"]),
        user(text_with_files("look", [file]), "Ben"),
        system=at["system prompt"],
        prefix=at["prefix"] if place == "prefix" else "",
    )


def control(name: str, prompt: Prompt) -> list[int]:
    """The control ids of a prompt, in order."""
    added = tokenizer_of(name).added_tokens_decoder
    ids = builder_of(name).build(prompt, 10).ids
    return [number for number in ids if number in added and added[number].content.strip()]


def test_every_model_of_the_catalog_is_tried() -> None:
    assert [spec.name for spec in read_specs(BUILT_IN)] == list(MAKERS)


@pytest.mark.fault(40)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.usefixtures("smollm2_dir")
def test_what_is_forged_is_only_text(name: str, place: str) -> None:
    innocent = control(name, written_at(place, "word"))
    texts = forged(name)
    assert texts
    for text in texts:
        assert control(name, written_at(place, text)) == innocent, f"{text!r} as the {place}"


@pytest.mark.fault(40)
@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.usefixtures("smollm2_dir")
def test_the_library_alone_would_have_taken_it_for_a_token(name: str) -> None:
    tokenizer = tokenizer_of(name)
    added = set(tokenizer.added_tokens_decoder)
    for text in tokenizer.all_special_tokens:
        assert added & set(tokenizer.encode(text, add_special_tokens=False)), "or the test above proves nothing"
