"""Tests how thoughts are told from an answer: a table of formats, each in every split, and random pieces."""

from functools import partial
from itertools import combinations
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.engine.text.reasoning import GEMMA, HARMONY, MISTRAL, TAGS, ReasoningSplitter, Split, Tags


class Case(NamedTuple):
    """`opening`: what the prompt ends in; None: it is not known."""

    said: str
    text: str
    thoughts: str
    opening: str | None = ""


CHATML = "<|im_end|>\n<|im_start|>assistant\n"
ASSISTANT = "<|start|>assistant"

THOUGHTS = {
    "no thoughts": Case("Hello.", "Hello.", ""),
    "at the beginning": Case("<think>\nHm.\n</think>\n\nYes.", "Yes.", "Hm.\n"),
    "after white space": Case("\n <think>Hm.</think>Yes.", "Yes.", "Hm."),
    "empty": Case("<think>\n\n</think>\n\nYes.", "Yes.", ""),
    "two": Case("<think>a</think> <think>b</think> c", "c", "a\n\nb"),
    "never closed": Case("<think>no end", "", "no end"),
    "an end that is cut off": Case("<think>no end</thin", "", "no end</thin"),
    "upper case": Case("<THINK>Hm.</THINK>Yes.", "Yes.", "Hm."),
    "mixed case": Case("<Think>Hm.</think>Yes.", "Yes.", "Hm."),
    "opened by the prompt": Case("Hm.\n</think>\n\nYes.", "Yes.", "Hm.\n", f"{CHATML}<think>\n"),
    "opened by the prompt, never closed": Case("Hm.", "", "Hm.", f"{CHATML}<think>\n"),
    "opened by the prompt, and again": Case("<think>Hm.</think>Yes.", "Yes.", "<think>Hm.", f"{CHATML}<think>"),
    "closed by the prompt": Case("Yes.", "Yes.", "", f"{CHATML}<think>\n\n</think>\n\n"),
    "closed by the prompt, and again": Case("</think>\n\nYes.", "Yes.", "", f"{CHATML}<think>\n\n</think>\n\n"),
    "after a first line": Case("Sure.\n<think>Hm.</think>\nYes.", "Sure.\n\nYes.", "Hm."),
    "after a first sentence": Case("Sure! <think>Hm.</think>Yes.", "Sure! Yes.", "Hm."),
    "after first words, on a line of its own": Case("Well, <think>\nHm.\n</think> yes.", "Well,  yes.", "Hm.\n"),
    "after a first line, never closed": Case("Sure.\n<think>\nHm.", "Sure.\n", "Hm."),
    "after a code block": Case("```\nx\n```\n<think>a</think>b", "```\nx\n```\nb", "a"),
    "thoughts that speak of the end": Case("<think>`</think>` ends it</think>Yes.", "Yes.", "`</think>` ends it"),
    "thoughts that end in a quote": Case('<think>say "Yes"</think>Yes.', "Yes.", 'say "Yes"'),
    "Mistral": Case("[THINK]Hm.[/THINK]Yes.", "Yes.", "Hm."),
    "Mistral, never closed": Case("[THINK]Hm.", "", "Hm."),
    "Gemma": Case("<|channel>thought\nHm.<channel|>Yes.", "Yes.", "Hm."),
    "Gemma, empty": Case("<|channel>thought\n<channel|>Yes.", "Yes.", ""),
    "Gemma, without the word": Case("<|channel>thorough<channel|>Yes.", "Yes.", "thorough"),
    "Gemma, opened by the prompt": Case("Hm.<channel|>Yes.", "Yes.", "Hm.", "<|turn>model\n<|channel>thought\n"),
    "Gemma, closed by the prompt": Case("Yes.", "Yes.", "", "<|turn>model\n<|channel>thought\n<channel|>"),
    "harmony": Case(
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
        "Yes.",
        "Hm.",
        ASSISTANT,
    ),
    "harmony, without thoughts": Case("<|channel|>final<|message|>Yes.<|return|>", "Yes.", "", ASSISTANT),
    "harmony, never closed": Case("<|channel|>analysis<|message|>Hm.", "", "Hm.", ASSISTANT),
    "harmony, continued": Case("so.<|return|>", "so.", "", f"{ASSISTANT}<|channel|>final<|message|>"),
    "harmony, opened by the prompt": Case(
        "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        "Yes.",
        "Hm.",
        f"{ASSISTANT}<|channel|>analysis<|message|>",
    ),
    "harmony, a preamble": Case(
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        "I look.\n\nYes.",
        "",
        ASSISTANT,
    ),
    "harmony, a call": Case(
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>", "", "", ASSISTANT
    ),
    "the prompt is not known": Case("Hm.\n</think>\n\nYes.", "Yes.", "Hm.\n", None),
}

TEXTS = {
    "a tag in a sentence": "Use <think>this</think> here.",
    "a tag in quotes": 'The tag "<think>" opens thoughts.',
    "a tag in a code span": "`<think>` opens thoughts, `</think>` ends them.",
    "a tag in a code block": "So:\n```xml\n<think>\nHm.\n</think>\n```\nYes.",
    "a tag in a list": "- <think> opens, </think> ends",
    "an end in a sentence": "It ends with </think>, always.",
    "another tag": "<thinking> is another",
    "a cut tag": "<thin",
    "a cut tag after words": "It is <thin",
    "Mistral's in a sentence": "Use [THINK] and [/THINK] there.",
    "harmony's in a sentence": "It writes <|channel|>final there.",
    "a comparison": "a < think > b",
    "Kelvin's sign": "<thin\u212a>this",
    "a letter whose lower case is longer": "\u0130\u0130<thi",
}
CASES = THOUGHTS | {f"speaks of {name}": Case(text, text, "") for name, text in TEXTS.items()}


def joined(splits: list[Split]) -> tuple[str, str]:
    """The text and the thoughts, as a reader of the pieces has them at the end."""
    text = thoughts = ""
    for split in splits:
        if split.retracts:
            text, thoughts = "", thoughts + text
        text, thoughts = text + split.text, thoughts + split.reasoning
    return text, thoughts


def split(
    pieces: list[str],
    opening: str | None = "",
    own: Tags | None = None,
    *,
    keeps_space: bool = False,
    goes_on: bool = False,
) -> tuple[str, str]:
    splitter = ReasoningSplitter(opening, own=own, keeps_space=keeps_space, goes_on=goes_on)
    return joined([*map(splitter.push, pieces), splitter.flush()])


@pytest.mark.parametrize("name", CASES)
def test_thoughts_and_text_in_every_split(name: str) -> None:
    said, text, thoughts, opening = CASES[name]
    assert split([said], opening) == (text, thoughts)
    assert split(list(said), opening) == (text, thoughts)
    for first, second in combinations(range(len(said) + 1), 2):
        assert split([said[:first], said[first:second], said[second:]], opening) == (text, thoughts)


@pytest.mark.parametrize(
    "name", [name for name, case in THOUGHTS.items() if case.opening is not None and "speak" not in name]
)
def test_thoughts_and_text_of_tokens(name: str) -> None:
    """Tags that are tokens of the model are not part of the text between them."""
    said, text, thoughts, opening = CASES[name]
    splitter, splits, rest = ReasoningSplitter(opening), list[Split](), said
    names = [*HARMONY, *(tag for tags in TAGS for tag in (tags.open, tags.close))]
    while rest:
        token = next((each for each in names if rest.lower().startswith(each.lower())), "")
        size = len(token) or 1
        splits.append((splitter.marker if token else splitter.push)(rest[:size]))
        rest = rest[size:]
    assert joined([*splits, splitter.flush()]) == (text, thoughts)


def test_a_control_token_opens_thoughts_anywhere() -> None:
    for tags in (MISTRAL, GEMMA):
        splitter = ReasoningSplitter()
        splits = [splitter.push("Well, it is "), splitter.marker(tags.open), splitter.push("Hm.")]
        assert splitter.thinking
        splits += [splitter.marker(tags.close), splitter.push("so."), splitter.flush()]
        assert joined(splits) == ("Well, it is so.", "Hm.")


def test_a_token_between_words_opens_thoughts_where_typed_text_does_not() -> None:
    splitter = ReasoningSplitter()
    splits = [splitter.push("So "), splitter.marker("<think>"), splitter.push("hm"), splitter.marker("</think>")]
    assert joined([*splits, splitter.push("yes."), splitter.flush()]) == ("So yes.", "hm")


def test_a_repository_has_tags_of_its_own() -> None:
    own = Tags("<Seed:Think>", "</Seed:Think>")
    assert split(["<seed:think>Hm.</seed:think>Yes."], own=own) == ("Yes.", "Hm.")
    assert split(["Hm.</seed:think>Yes."], "<bot><seed:think>", own) == ("Yes.", "Hm.")


def test_a_continued_answer_keeps_its_white_space() -> None:
    splitter = ReasoningSplitter(goes_on=True)
    assert joined([splitter.push(" and <think>\n"), splitter.push("x</think> so"), splitter.flush()]) == (
        " and  so",
        "x",
    )


def test_text_is_returned_as_soon_as_it_is_certain() -> None:
    splitter = ReasoningSplitter()
    assert splitter.push("It is <b").text == "It is <b"
    assert splitter.push("> or <th").text == "> or "
    assert splitter.push("e>").text == "<the>"
    assert splitter.push("\n<think>Hm").reasoning == "Hm"


PIECES = st.lists(
    st.one_of(
        st.sampled_from([tag for tags in TAGS for tag in (tags.open, tags.close)] + list(HARMONY)),
        st.sampled_from(
            ["<thi", "nk>", "</", "\n", "`", "```\n", ". ", " ", "thought\n", "analysis", "final", "THINK"]
        ),
        st.text(max_size=5),
    ),
    max_size=14,
)


OPENINGS = st.sampled_from(
    ["", None, f"{CHATML}<think>\n", f"{CHATML}<think>\n\n</think>\n\n", ASSISTANT, "<|channel>"]
)


@given(PIECES, OPENINGS, st.lists(st.integers(1, 7)), st.booleans(), st.booleans())
@example(["<think>", "`", "</think>", "`"], "", [], False, False)
@example([" ", "</think>", "Hi"], "", [1], True, False)
@example(["<|channel>", "thought\n", "\n\n", "Hm"], None, [18, 1, 1], False, False)
def test_the_split_does_not_matter(
    pieces: list[str], opening: str | None, sizes: list[int], keeps_space: bool, goes_on: bool
) -> None:
    said, separate = "".join(pieces), partial(split, opening=opening, keeps_space=keeps_space, goes_on=goes_on)
    whole = separate([said])
    cut, at = [], 0
    for size in [*sizes, len(said) + 1]:
        cut.append(said[at : at + size])
        at += size
    assert separate(cut) == separate(list(said)) == whole


@given(st.text())
def test_text_without_tags_is_unchanged(text: str) -> None:
    if not any(sign in text for sign in "<["):
        assert split(list(text)) == (text.lstrip(), "")


@pytest.mark.parametrize("piece", ["<think>", "</think>", "<", "`", "\n<thin", "<think>x</think>", "<|channel|>"])
def test_a_long_hostile_text_takes_linear_time(piece: str) -> None:
    """Quadratic work would take hours."""
    splitter = ReasoningSplitter()
    for _ in range(10_000):
        splitter.push(piece)
    splitter.push(piece * 30_000)
    splitter.flush()
