"""Tests incremental decoding of ids: whole characters, correct spaces, no special tokens, no part of a stop string."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from bot.engine.text.decoding import TextDecoder, own_tags
from bot.engine.text.prompts import PromptBuilder
from bot.engine.text.reasoning import Tags
from tests.support.builders.prompt_tokenizers import CHATML, ask, byte_level, mistral, user

TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte-level": lambda: byte_level(CHATML),
    "sentencepiece": mistral,
}
SCRIPTS = [
    "Hello, world",
    " naïve café",
    "東京",
    "こんにちは",
    "привет",
    "नमस्ते",
    "مرحبا",
    "ᚠᛇᚻ",
    "བོད",
    "🙂🏳️‍🌈👩‍👩‍👧",
    "a\u0301",
]
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(SCRIPTS),
        st.sampled_from([" ", "  ", "\n", "\t", "END", "EN", "\nUser:", "x"]),
        st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=6),
    ),
    max_size=12,
).map("".join)


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]()


def spell(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def one_by_one(decoder: TextDecoder, ids: list[int]) -> list[str]:
    """The pieces that result from pushing ids one at a time."""
    return [*(decoder.push([number]) for number in ids), decoder.flush()]


@pytest.mark.fault(25)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_portions_make_up_the_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]()

    @given(TEXTS, st.lists(st.integers(1, 9), max_size=30), st.sets(st.sampled_from(["END", "\nUser:", "x", " 🙂"])))
    def check(text: str, portions: list[int], stop: set[str]) -> None:
        ids = spell(tokenizer, text)
        whole = str(tokenizer.decode(ids, skip_special_tokens=True))
        decoder = TextDecoder(tokenizer, sorted(stop))
        shown, at = "", 0
        for size in [*portions, len(ids)]:
            portion = decoder.push(ids[at : at + size])
            assert "\ufffd" not in portion
            shown, at = shown + portion, at + size
        shown += decoder.flush()
        ends = [whole.find(text) + len(text) for text in stop if text in whole]
        if ends:
            whole = min((whole[: min(ends)].removesuffix(text) for text in stop), key=len)
        assert shown == whole.lstrip()
        assert decoder.stopped == bool(ends)

    check()


def test_it_does_not_matter_where_portions_end(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = spell(tokenizer, "Hello, world 𒀀ᚠ done")
    for first in range(len(ids)):
        for second in range(first, len(ids)):
            decoder = TextDecoder(tokenizer)
            portions = [decoder.push(part) for part in (ids[:first], ids[first:second], ids[second:])]
            assert "".join(portions) == "Hello, world 𒀀ᚠ done"


def test_every_portion_is_shown_as_soon_as_it_is_certain(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = spell(tokenizer, "One two three 🙂 four")
    portions = one_by_one(TextDecoder(tokenizer, ["STOP"]), ids)
    assert sum(bool(portion) for portion in portions) >= 5
    assert portions[-1] == ""


@pytest.mark.fault(25)
@pytest.mark.parametrize("character", ["ᚠ", "𒀀"])
def test_a_character_appears_with_its_last_byte(tokenizer: PreTrainedTokenizerBase, character: str) -> None:
    ids = spell(tokenizer, f"a {character}")
    assert len(ids) > 3
    decoder = TextDecoder(tokenizer)
    portions = [decoder.push([number]) for number in ids]
    assert "".join(portions[:-1]).strip() == "a"
    assert portions[-1].strip() == character


def test_an_incomplete_character_at_the_end_is_dropped(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = spell(tokenizer, "ᚠ done ᚠ")
    assert "".join(one_by_one(TextDecoder(tokenizer), ids[:-1])).rstrip() == "ᚠ done"


def test_bytes_that_are_no_character_spoil_only_themselves(tokenizer: PreTrainedTokenizerBase) -> None:
    broken = spell(tokenizer, "ᚠ")[-1:] * 40
    shown = "".join(one_by_one(TextDecoder(tokenizer), [*spell(tokenizer, "a"), *broken, *spell(tokenizer, "ᚠ end")]))
    assert shown.startswith("a")
    assert shown.rstrip().endswith("end")
    assert shown.count("\ufffd") <= 12


def test_a_replacement_character_that_was_meant_is_shown(tokenizer: PreTrainedTokenizerBase) -> None:
    assert "".join(one_by_one(TextDecoder(tokenizer), spell(tokenizer, "Is \ufffd it?"))) == "Is \ufffd it?"


def test_special_tokens_are_not_shown(tokenizer: PreTrainedTokenizerBase) -> None:
    specials = list(tokenizer.all_special_ids)[:5]
    ids = [*specials, *spell(tokenizer, "Hello"), *specials * 9, *spell(tokenizer, "you"), *specials]
    shown = "".join(one_by_one(TextDecoder(tokenizer), ids))
    assert shown == str(tokenizer.decode(ids, skip_special_tokens=True))
    assert shown.replace(" ", "") == "Helloyou"


def test_an_answer_does_not_open_with_white_space(tokenizer: PreTrainedTokenizerBase) -> None:
    assert "".join(one_by_one(TextDecoder(tokenizer), spell(tokenizer, " \n\n  Hello \n"))) == "Hello \n"
    assert "".join(one_by_one(TextDecoder(tokenizer), spell(tokenizer, " \n "))) == ""


@pytest.mark.parametrize(
    ("so_far", "more"), [("It is", " so."), ("It is ", "so."), ("un", "likely"), ("ᚠ", "ᚠ"), ("a\n", "\n b")]
)
def test_a_continued_answer_keeps_its_spaces(tokenizer: PreTrainedTokenizerBase, so_far: str, more: str) -> None:
    prompt = PromptBuilder(tokenizer, "", 4096).build(ask(user("Well?"), prefix=so_far), 100).ids
    anchor = spell(tokenizer, "\n")
    generated = spell(tokenizer, "\n" + more)[len(anchor) :]
    decoder = TextDecoder(tokenizer, continues=prompt)
    assert "".join(one_by_one(decoder, generated)) == more
    whole = str(tokenizer.decode([*prompt, *generated]))
    assert whole.endswith(so_far + more)


def test_nothing_of_a_stop_string_is_ever_shown(tokenizer: PreTrainedTokenizerBase) -> None:
    decoder = TextDecoder(tokenizer, ["\nUser:", "\nOutput:"])
    portions = [decoder.push([number]) for number in spell(tokenizer, "Fine.\nUs\nUser: and more")]
    assert "".join(portions) == "Fine.\nUs"
    assert decoder.stopped
    assert decoder.flush() == ""
    assert decoder.push(spell(tokenizer, "more")) == ""


def test_the_beginning_of_a_stop_string_is_shown_when_it_does_not_go_on(tokenizer: PreTrainedTokenizerBase) -> None:
    decoder = TextDecoder(tokenizer, ["STOP", ""])
    assert "".join(decoder.push([number]) for number in spell(tokenizer, "I say ST")) == "I say "
    assert decoder.flush() == "ST"
    assert not decoder.stopped


def test_the_stop_string_that_is_complete_first_counts(tokenizer: PreTrainedTokenizerBase) -> None:
    whole, single = TextDecoder(tokenizer, ["STOP NOW", "OP"]), TextDecoder(tokenizer, ["STOP NOW", "OP"])
    ids = spell(tokenizer, "No STOP NOW")
    assert whole.push(ids) == "".join(one_by_one(single, ids)) == "No ST"


def test_an_answer_can_be_nothing_but_a_stop_string(tokenizer: PreTrainedTokenizerBase) -> None:
    decoder = TextDecoder(tokenizer, ["\nInstruct:"])
    assert "".join(one_by_one(decoder, spell(tokenizer, "\nInstruct: x"))) == ""
    assert decoder.stopped


@pytest.mark.parametrize(
    ("said", "shown", "thoughts"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", "Yes.", "Hm.\n"),
        ("<think>no end", "", "no end"),
        ("<thin", "<thin", ""),
        ("Use <think>this</think>", "Use <think>this</think>", ""),
        ("<think>a</think> <think>END</think> c END d", "c ", "a\n\nEND"),
    ],
)
def test_thoughts_are_no_part_of_an_answer(
    tokenizer: PreTrainedTokenizerBase, said: str, shown: str, thoughts: str
) -> None:
    for portions in ([spell(tokenizer, said)], [[number] for number in spell(tokenizer, said)]):
        decoder, text, reasoning = TextDecoder(tokenizer, ["END"]), "", ""
        for portion in portions:
            text += decoder.push(portion)
            reasoning += decoder.take_reasoning()
        text += decoder.flush()
        assert (text, reasoning + decoder.take_reasoning()) == (shown, thoughts)


def test_tags_that_are_tokens_are_found() -> None:
    """Special ones are in no decoded text; of `<think>`, a model may write the token or the letters."""
    tags = ("<think>", "</think>", "[THINK]", "[/THINK]", "<|channel>", "<channel|>")
    for first, last in zip(tags[::2], tags[1::2], strict=True):
        tokenizer = byte_level(
            CHATML, added=[AddedToken(tag, normalized=False, special="think" not in tag) for tag in (first, last)]
        )
        opened, closed = (int(tokenizer.convert_tokens_to_ids(tag)) for tag in (first, last))  # type: ignore[arg-type]
        ids = [opened, *spell(tokenizer, "Hm \u4eac."), closed, *spell(tokenizer, "\n\nYes.")]
        for portions in ([ids], [[number] for number in ids]):
            decoder = TextDecoder(tokenizer)
            text = "".join(map(decoder.push, portions)) + decoder.flush()
            assert (text, decoder.take_reasoning()) == ("Yes.", "Hm \u4eac.")


def test_thoughts_that_the_prompt_opens_are_thoughts(tokenizer: PreTrainedTokenizerBase) -> None:
    decoder = TextDecoder(tokenizer, opening="<|im_start|>assistant\n<think>\n")
    assert decoder.thinking
    assert decoder.push(spell(tokenizer, "Hm.</think>Yes.")) + decoder.flush() == "Yes."
    assert (decoder.take_reasoning(), decoder.thinking) == ("Hm.", False)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ({"fields": {"reasoning_content": {"open": "<r>\n", "close": "</r>"}}}, Tags("<r>", "</r>")),
        ({"fields": {"thinking": {"open": "<r>", "close": "</r>", "content": "text"}}}, Tags("<r>", "</r>")),
        ({"fields": {"thinking": {"open": ["<r>"], "close": "</r>"}}}, None),
        ({"fields": {"thinking": {"open_pattern": "(a+)+$", "close": "</r>"}}}, None),
        ({"fields": {"thinking": {"open": "", "close": "</r>"}}}, None),
        ({"fields": {"content": {}}}, None),
        ({"fields": []}, None),
        ("nonsense", None),
        (None, None),
    ],
)
def test_a_repository_names_its_tags(template: object, found: Tags | None) -> None:
    tokenizer = byte_level(CHATML)
    tokenizer.response_template = template
    assert own_tags(tokenizer) == found
    decoder = TextDecoder(tokenizer)
    text = decoder.push(spell(tokenizer, "<r>Hm.</r>Yes.")) + decoder.flush()
    assert text == ("Yes." if found else "<r>Hm.</r>Yes.")


def test_an_answer_is_not_decoded_again_and_again(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, seen = tokenizer.decode, []

    def counted(ids: Sequence[int], **how: Any) -> str | list[str]:
        seen.append(len(ids))
        return decode(list(ids), **how)

    monkeypatch.setattr(tokenizer, "decode", counted)
    ids = spell(tokenizer, "One two ᚠ 🙂 three. " * 100)
    one_by_one(TextDecoder(tokenizer), ids)
    assert sum(seen) <= 20 * len(ids)
    assert max(seen) <= 20
