"""Tests splitting an answer into messages: within the limit, without loss, whole fences, and stable while text
grows."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.platforms.splitter import closed, open_fence, split, without_bidi_controls

WORDS = st.sampled_from(
    ["one", "two.", "three!", "a" * 40, "b" * 150, "``", "`code`", "日本語。", "👩‍👩‍👧", "…", "~~~", "-"]
)
SPACES = st.sampled_from([" ", "  ", "\n", "\n\n", "\n \n", "\n    ", "\t"])
FENCES = st.sampled_from(
    ["\n```python\n", "\n```\n", "\n~~~\n", "\n````\n", "\n```" + "x" * 90 + "\n", "\n" + "`" * 40 + "\n"]
)
TEXTS = st.lists(st.one_of(WORDS, SPACES, FENCES), max_size=60).map("".join)
PLAIN = st.lists(st.one_of(WORDS.filter(lambda word: word not in ("``", "~~~")), SPACES), max_size=60).map("".join)
LIMITS = st.integers(100, 300)


@given(st.one_of(st.text(max_size=900), TEXTS), LIMITS)
@example("~~~" + "~" * 200 + "\n" + "x" * 500, 100)
@example("```" + "x" * 5000 + "\n" + "y " * 500, 100)
def test_no_part_is_longer_than_the_limit(text: str, limit: int) -> None:
    parts = split(text, limit)
    assert parts
    assert all(len(part.text) <= limit for part in parts)
    assert len(parts) == 1 or all(part.text for part in parts)
    assert all(part.committed <= len(part.text) for part in parts)


@given(TEXTS, TEXTS, LIMITS)
@example(f"\n```{'x' * 90}\n\n```\n", f"one\n```python\n{'b' * 150}", 210)
def test_more_text_never_changes_what_is_committed(text: str, more: str, limit: int) -> None:
    before, after = split(text, limit), split(text + more, limit)
    assert len(after) >= len(before)
    for old, new in zip(before[:-1], after, strict=False):
        assert new.text == old.text
    last = before[-1]
    assert after[len(before) - 1].text.startswith(last.text[: last.committed])


@given(PLAIN, LIMITS)
def test_nothing_but_white_space_at_the_cuts_is_lost(text: str, limit: int) -> None:
    joined = "".join(part.text for part in split(text, limit))
    assert re.sub(r"\s", "", joined) == re.sub(r"\s", "", text)


@given(TEXTS, LIMITS)
def test_every_part_closes_its_fence(text: str, limit: int) -> None:
    assert not any(open_fence(part.text) for part in split(text, limit))


def test_a_short_text_is_one_part_as_it_is() -> None:
    assert [part.text for part in split("Hello there.", 2000)] == ["Hello there."]


def test_a_cut_is_made_at_a_paragraph_rather_than_at_a_line_or_a_word() -> None:
    text = f"{'word ' * 12}\n\n{'line ' * 3}\n{'more words. ' * 30}"
    parts = split(text, 112)
    assert parts[0].text == ("word " * 12).rstrip()
    assert parts[1].text.startswith("line")


def test_words_stay_whole_and_a_word_without_end_is_cut_anywhere() -> None:
    parts = split("abcdefg " * 50, 100)
    assert all(set(part.text.split()) == {"abcdefg"} for part in parts)
    assert "".join(part.text for part in split("x" * 1000, 100)) == "x" * 1000


@pytest.mark.fault(24)
def test_twelve_thousand_characters_with_code_are_ordered_parts_with_whole_fences() -> None:
    code = "\n".join(f"    print({number}, 'some line of code that is not short')" for number in range(240))
    text = f"Look:\n\n```python\n{code}\n```\n\nThat was it."
    assert len(text) > 12_000
    parts = [part.text for part in split(text, 2000)]
    assert all(len(part) <= 2000 for part in parts)
    assert parts[0].startswith("Look:\n\n```python\n    print(0,")
    for part in parts[1:]:
        assert part.startswith("```python\n    print(")
    for part in parts:
        assert part.count("```") == 2
    numbers = [int(number) for number in re.findall(r"print\((\d+),", "\n".join(parts))]
    assert numbers == list(range(240))
    assert parts[-1].endswith("```\n\nThat was it.")


def test_a_fence_inside_a_longer_fence_is_text() -> None:
    assert open_fence("````\n```python\nx\n```\n") == "````"
    assert open_fence("````\n```\n````\n") == ""
    assert open_fence("~~~sh\n```\n") == "~~~sh"
    assert open_fence("Say ```` like this ``` and go on") == ""


def test_a_fence_in_a_list_or_a_quote_is_one() -> None:
    assert open_fence("1. Do this:\n\n       ```sh\n       ls") == "       ```sh"
    assert open_fence("- ```sh\n  ls\n  ```\n") == ""
    assert open_fence("- ```sh\n  ls") == "  ```sh"
    assert open_fence("> ```\n> ls") == "> ```"
    assert open_fence("12. ~~~\n    ls") == "    ~~~"


def test_what_is_open_is_closed() -> None:
    assert closed("Look:\n~~~sh\nls") == "Look:\n~~~sh\nls\n~~~"
    assert closed("Look: `x") == "Look: `x"


@pytest.mark.fault(46)
def test_nothing_is_shown_in_another_order_than_it_was_written() -> None:
    assert [part.text for part in split("a\u202eb\u2066c\u2069", 100)] == ["abc"]
    assert without_bidi_controls("\u05d0\u200f\u061c\u200e\u200d") == "\u05d0\u200f\u061c\u200e\u200d"


def test_a_fence_with_a_very_long_line_loses_its_language() -> None:
    assert open_fence("```" + "x" * 90 + "\ny") == "```"
    assert open_fence("```" + "x" * 20 + "\ny") == "```" + "x" * 20
