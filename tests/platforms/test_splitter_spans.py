"""Tests that no cut splits a grapheme, a link, emphasis or code, and that quoted and indented code stays code."""
# ruff: noqa: RUF001  the punctuation of other scripts is what is tested

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from wcwidth import iter_graphemes

from bot.platforms.adapter import Dialect
from bot.platforms.splitter import beginning, split
from bot.replies.links import KnownLinks, urls_in
from bot.replies.markdown import render
from tests.support.builders.markdown_samples import GOOD, live_urls

LIMITS = st.integers(100, 200)
GRAPHEMES = st.sampled_from(["👩‍👩‍👧", "🇳🇱", "🇩🇪", "한", "한", "नि", "क्षि", "é", "🏳️‍🌈", "👍🏽", "a", "東"])
CLOSING = "」』）】》”’"
WORDS = st.sampled_from(["word", "and", "snake_case", "e.g.", "word,", "東京は", "一つ。", "I'm"])
LINK, CODE = f"[a fairly long label]({GOOD})", "`some code of it`"
MARKED = ["**bold words here**", "*one or two*", "_one or two_", "~~gone now~~", "**bold and *more* of it**"]
SPANS = st.sampled_from([LINK, CODE, *MARKED, f"**{LINK}**", f"*{CODE}*", f"***{LINK} and {CODE}***"])
SENTENCES = st.lists(st.one_of(WORDS, SPANS), min_size=5, max_size=60).map(" ".join)
PARSER = MarkdownIt("commonmark", {"html": False}).enable("strikethrough")


def inline(text: str) -> str:
    """The inline elements of a text: text and code with the kinds of span around each."""
    shown, around = [], list[str]()
    for token in (child for block in PARSER.parse(text) for child in block.children or []):
        if token.nesting > 0:
            around.append(token.tag + str(token.attrs.get("href", "")))
        elif token.nesting < 0:
            around.pop()
        else:
            mark = "".join(sorted(around)) + token.type.replace("softbreak", "text")
            shown += [f"{char}/{mark}" for char in token.content if not char.isspace()]
    return "\n".join(shown)


@given(st.lists(GRAPHEMES, min_size=60, max_size=400).map("".join), LIMITS)
def test_no_grapheme_is_cut(text: str, limit: int) -> None:
    cut = [grapheme for part in split(text, limit) for grapheme in iter_graphemes(part.text)]
    assert cut == list(iter_graphemes(text))


def test_jamo_and_flags_stay_whole_at_every_length() -> None:
    for piece in ("\u1112\u1161\u11ab", "🇳🇱", "👩‍👩‍👧"):
        for limit in range(100, 120):
            assert all(len(part.text) % len(piece) == 0 for part in split(piece * 100, limit))


@given(
    st.lists(st.sampled_from(["「はい。」", "東京は広い", "（そうだ！）", "『何？』と", "、"]), min_size=20).map(
        "".join
    ),
    LIMITS,
)
def test_closing_punctuation_stays_with_its_sentence(text: str, limit: int) -> None:
    for part in split(text, limit)[1:]:
        assert part.text[0] not in CLOSING + "。！？、"


@given(SENTENCES, LIMITS)
def test_links_code_and_emphasis_look_the_same_in_parts(text: str, limit: int) -> None:
    parts = [part.text for part in split(text, limit)]
    assert "\n".join(filter(None, map(inline, parts))) == inline(text)
    assert all(len(part) <= limit for part in parts)


@given(st.sampled_from(["**", "*", "_", "~~", "`", "``", "***"]), st.integers(100, 400), LIMITS)
def test_a_span_longer_than_a_message_is_closed_and_reopened(marks: str, words: int, limit: int) -> None:
    text = f"Look: {marks}{'word ' * words}end{marks} and more"
    parts = [part.text for part in split(text, limit)]
    assert len(parts) > 2
    assert all(part.startswith(marks) for part in parts[1:] if "word" in part)
    assert all(part.endswith(marks) for part in parts if "end" not in part and "more" not in part)
    assert "\n".join(filter(None, map(inline, parts))) == inline(text)


def test_a_link_is_cut_before_or_behind() -> None:
    for before in range(60, 100):
        parts = split("x" * before + " [a fairly long label](https://good.example/a_(b)) and more words", 120)
        assert sum("[a fairly long label](https://good.example/a_(b))" in part.text for part in parts) == 1


def test_code_that_is_reopened_never_runs_into_a_backtick() -> None:
    for length in range(60, 130):
        text = f"``{'word ' * 20}{'x' * (length - 60)} ` https://bad.example/x `` end of it {'word ' * 20}"
        assert "bad.example" not in live_urls("\n\n".join(part.text for part in split(text, 100)))


@pytest.mark.parametrize("prefix", ["> ", "> > ", "  ", "   "])
def test_a_fence_reopens_with_its_prefix(prefix: str) -> None:
    code = "\n".join(f"{prefix}line {number} of the code" for number in range(30))
    parts = [part.text for part in split(f"{prefix}```sh\n{code}\n{prefix}```\nThe end.", 120)]
    assert len(parts) > 4
    assert all(part.startswith(f"{prefix}```sh\n{prefix}line") for part in parts)
    assert all(part.endswith(f"\n{prefix}```") for part in parts[:-1])
    assert parts[-1].endswith(f"{prefix}```\nThe end.")


@pytest.mark.parametrize("prefix", ["", "> ", "  "])
@pytest.mark.parametrize("line", ["x", "line of code", "y" * 45])
def test_no_fence_is_reopened_for_its_closing_line_alone(prefix: str, line: str) -> None:
    for count in range(1, 60):
        code = f"{prefix}{line}\n" * count
        text = f"{'Look. ' * (count % 7)}\n\n{prefix}```sh\n{code}{prefix}```\nText.\n\n```\nmore\n```"
        for part in split(text, 120):
            assert not re.search(rf"^{prefix}```sh\n{prefix}```", part.text, re.MULTILINE)


def test_code_in_a_deep_list_is_reopened_where_it_is_no_text() -> None:
    code = "\n".join(f"       line {number} of the code" for number in range(30))
    first, *parts = [part.text for part in split(f"1. Do:\n\n       ```sh\n{code}\n       ```\nThe end.", 120)]
    assert first.startswith("1. Do:\n\n       ```sh\n       line 0")
    assert all(part.startswith("```sh\nline") for part in parts)
    assert parts[-1].endswith("\n```\nThe end.")


def test_a_quote_that_is_cut_in_a_line_stays_a_quote() -> None:
    parts = [part.text for part in split(f"> {'quoted words ' * 30}\n\nNo quote.", 120)]
    assert all(part.startswith(("> quoted", "> words")) for part in parts[:-1])
    assert parts[-1] == "No quote."


CODE_LINES = st.lists(st.sampled_from(["x = 1", "```", "````", "~~~", "```python", "    y", "| a |", ""]), max_size=30)


@pytest.mark.parametrize("dialect", [Dialect.DISCORD, Dialect.SLACK])
@pytest.mark.parametrize("prefix", ["", "> ", "- "])
@given(lines=CODE_LINES, marks=st.sampled_from(["`````", "~~~~"]), limit=LIMITS)
def test_fences_in_fences_stay_code(lines: list[str], marks: str, limit: int, prefix: str, dialect: Dialect) -> None:
    assume("~" not in marks or "~~~~" not in lines)
    further = prefix.replace("-", " ")
    text = "\n".join(
        [f"{prefix}{marks}md", *(f"{further}{line}" for line in lines), f"{further}{marks}", "", "The end."]
    )
    parts = [part.text for part in split(render(text, dialect, KnownLinks()), limit)]
    assert all(len(part) <= limit for part in parts)
    code = []
    for part in parts:
        assert len(re.findall("`{3}", part)) == 2 * part.count("```md") <= 2
        code += [token.content for token in MarkdownIt().parse(part) if token.type == "fence"]
    kept = [line.strip().replace("\u200b", "") for content in code for line in content.split("\n")]
    assert [line for line in kept if line] == [line.strip() for line in lines if line]
    assert parts[-1].endswith("The end.")


@given(SENTENCES, SENTENCES, LIMITS)
def test_parts_with_spans_never_change_when_text_follows(text: str, more: str, limit: int) -> None:
    before, after = split(text, limit), split(text + more, limit)
    assert [part.text for part in after[: len(before) - 1]] == [part.text for part in before[:-1]]
    last = before[-1]
    assert after[len(before) - 1].text.startswith(last.text[: last.committed])


@given(SENTENCES, st.integers(40, 300))
def test_a_beginning_ends_outside_of_spans(text: str, most: int) -> None:
    shown = inline(beginning(text, most))
    assert inline(text).startswith(shown)
    assert len(beginning(text, most)) <= most + 8


def test_a_beginning_is_cut_where_no_address_becomes_another() -> None:
    for most in range(20, 60):
        shown = beginning(f"Look at https://good.example.org/a or {'[it](https://good.example.org/a) ' * 3}", most)
        assert {*urls_in(shown)} <= {"https://good.example.org/a"}
    assert beginning("👩‍👩‍👧" * 20, 12) == "👩‍👩‍👧" * 2
    assert beginning(f"**{'bold ' * 400}**", 1500).endswith("bol**")
    assert beginning("short", 5) == "short"
