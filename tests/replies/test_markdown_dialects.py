"""Tests what Discord and Slack cannot show by themselves: tables, fences, deep headings, rules, task lists, breaks."""
# ruff: noqa: RUF001  signs and scripts of users

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from wcwidth import iter_graphemes, width

from bot.platforms.adapter import Dialect, Limits
from bot.platforms.markdown_scanner import RULE
from bot.replies.links import KnownLinks
from bot.replies.markdown import fence_to_continue, render, stable_prefix
from tests.replies.test_renderer import composer, ended, texts
from tests.support.builders.markdown_samples import GOOD, live_urls

LINKS = KnownLinks({GOOD})
BOTH = pytest.mark.parametrize("dialect", [Dialect.DISCORD, Dialect.SLACK])
CELLS = st.sampled_from(["a", "東京", "👩‍👩‍👧", "🇳🇱🇩🇪", "한글", "**bold**", "a \\| b", "*e*", "", "one<br>two", "ﷺ"])
ROWS = st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=6)


def at_columns(text: str) -> dict[int, str]:
    """The graphemes of a line by the column where they are shown."""
    found, column = dict[int, str](), 0
    for grapheme in iter_graphemes(text):
        found[column] = grapheme
        column += width(grapheme)
    return found


@given(ROWS)
def test_columns_are_straight_in_every_script(rows: list[list[str]]) -> None:
    text = "\n".join(["| h1 | h2 | h3 |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])
    first, header, rule, *lines, last = render(text, Dialect.DISCORD, LINKS).split("\n")
    assert (first, last) == ("```", "```")
    assert "**" not in "".join(lines)
    bars = [column for column, char in enumerate(rule) if char == "+"]
    for line in (header, *lines):
        shown = at_columns(line)
        assert all(shown[column] == "|" for column in bars if column <= max(shown))
    broken = sum(any("<br>" in cell for cell in row) for row in rows)
    assert len(lines) == len(rows) + broken


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("a \\| b", "a | b"),
        ("`a \\| b`", "a | b"),
        ("**bold** and *em* and ~~gone~~", "bold and em and gone"),
        ("_em_ snake_case 2*3", "em snake_case 2*3"),
        (f"[a label]({GOOD})", f"a label ({GOOD})"),
        (f"[{GOOD}]({GOOD})", GOOD),
        ("[**x**](https://bad.example/x)", "x (https://bad.example/x)"),
        ("\\*no em\\*", "*no em*"),
        ("```", "`\u200b`\u200b`"),
    ],
)
def test_a_cell_is_plain_text(cell: str, shown: str) -> None:
    lines = render(f"| h | i |\n|---|---|\n| {cell} | 1 |", Dialect.DISCORD, LINKS).split("\n")
    assert lines[3] == f"{shown} | 1"


def test_a_break_in_a_cell_is_a_line_of_its_row() -> None:
    shown = render("| a | b |\n|---|---|\n| one<br>two | 1<BR/>2<br />3 |\n| x | y |", Dialect.DISCORD, LINKS)
    assert shown == "```\na   | b\n----+--\none | 1\ntwo | 2\n    | 3\nx   | y\n```"


def test_tables_in_quotes_and_lists_are_converted() -> None:
    quoted = "> | a | b |\n> |---|---|\n> | 1 | 22 |\nAfter."
    assert render(quoted, Dialect.DISCORD, LINKS) == "> ```\n> a | b\n> --+---\n> 1 | 22\n> ```\nAfter."
    listed = "- | a | b |\n  |---|---|\n  | 1 | 22 |"
    assert render(listed, Dialect.DISCORD, LINKS) == "- ```\n  a | b\n  --+---\n  1 | 22\n  ```"


@BOTH
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("````md\n```python\nx\n```\n````", "```md\n`\u200b`\u200b`python\nx\n`\u200b`\u200b`\n```"),
        ("~~~\n```\n~~~", "```\n`\u200b`\u200b`\n```"),
        ("~~~ sh`x` y\nls\n~~~~~", "```\nls\n```"),
        ("```python title=x\nx\n```", "```python\nx\n```"),
        ("> ~~~sh\n> ls\n> ~~~", "> ```sh\n> ls\n> ```"),
        ("> ```\n> ls\nAfter.", "> ```\n> ls\n> ```\nAfter."),
        ("- ```\nls\n```\nAfter.", "- ```\nls\n```\nAfter."),
        ("> ```\n> ls", "> ```\n> ls"),
    ],
)
def test_a_fence_has_three_backticks_and_an_end(text: str, shown: str, dialect: Dialect) -> None:
    assert render(text, dialect, LINKS) == shown


@BOTH
def test_an_empty_fence_does_not_open_what_follows(dialect: Dialect) -> None:
    assert render("```py\n```\nafter", dialect, LINKS) == "```py\n\u200b\n```\nafter"
    assert render("> ```\n>\n> ```\nafter", dialect, LINKS) == "> ```\n>\n> \u200b\n> ```\nafter"


def test_code_of_a_list_has_no_indentation_where_it_would_be_shown() -> None:
    text = "1. Do:\n\n   ```sh\n   if x\n     y\n   ```\n2. End"
    assert render(text, Dialect.DISCORD, LINKS) == "1. Do:\n\n```sh\nif x\n  y\n```\n2. End"
    assert render(text, Dialect.SLACK, LINKS) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("#### Title", "**Title**"),
        ("###### A **big** and *small* `x` ##", "**A big and *small* `x`**"),
        ("- #### Title", "- **Title**"),
        ("> ##### Title", "> **Title**"),
        ("### Title", "### Title"),
        ("#### see https://bad.example/x", "**see `https://bad.example/x`**"),
        ("####", ""),
        ("####### no heading", "####### no heading"),
    ],
)
def test_a_deep_heading_is_bold_on_discord(text: str, shown: str) -> None:
    assert render(text, Dialect.DISCORD, LINKS) == shown
    assert render(text, Dialect.MARKDOWN, LINKS) == text.replace("https://bad.example/x", "`https://bad.example/x`")


@BOTH
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n\n---\n\nb", f"a\n\n{RULE}\n\nb"),
        ("a\n***\nb", f"a\n{RULE}\nb"),
        ("> * * *", f"> {RULE}"),
        ("-- -\n--", f"{RULE}\n--"),
        ("- [ ] open\n- [x] done\n  1. [X] too", "- ☐ open\n- ☑ done\n  1. ☑ too"),
        ("> - [ ] quoted", "> - ☐ quoted"),
        ("[x] is no box, nor is - [x] here, - [y]", "[x] is no box, nor is - [x] here, - [y]"),
        ("one<br>two<BR />three", "one\ntwo\nthree"),
        ("> one<br>two\n- a<br/>b", "> one\n> two\n- a\n  b"),
        ("`a<br>b` c", "`a<br>b` c"),
    ],
)
def test_what_a_platform_does_not_know_is_drawn(text: str, shown: str, dialect: Dialect) -> None:
    code = shown.replace("<", "&lt;").replace("a&lt;br>", "a&lt;br&gt;") if dialect is Dialect.SLACK else shown
    assert render(text, dialect, LINKS) == code
    assert render(text, Dialect.MARKDOWN, LINKS) == text


PIECES = st.sampled_from(
    [
        *("- [", " ]", "x] ", "- ", "* ", "> ", "1. ", "<b", "r", "/>", "<br>", "---", "--", "***", "#### ", "# "),
        *("```", "````", "~~~", "~", "`", "\n", "\n\n", "\n> ", "\n  ", "a", "**", "| a | b |\n", "|---|---|\n", "|"),
        *("，", "](", "[x]", "https://good.example/a_(b)", "https://bad.example/x", "中", ", ", "!", "?"),
    ]
)
TEXTS = st.lists(PIECES, max_size=30).map("".join)


@given(TEXTS, st.sampled_from(Dialect))
def test_a_stable_prefix_keeps_its_rendering(text: str, dialect: Dialect) -> None:
    whole = render(text, dialect, LINKS)
    for end in range(len(text)):
        assert whole.startswith(render(text[: stable_prefix(text[:end], dialect)], dialect, LINKS)), end


@given(TEXTS, st.sampled_from(Dialect))
def test_no_unknown_address_is_left(text: str, dialect: Dialect) -> None:
    outside = MarkdownIt("commonmark").parse(render(text, dialect, LINKS))
    if not any(token.type == "fence" for token in outside):
        assert "bad.example" not in live_urls(render(text, dialect, LINKS))


@pytest.mark.parametrize(
    ("before", "opening"),
    [
        ("Look:\n```python\nprint(1)", "```python"),
        ("````md\n```\nx\n```", "````md"),
        ("> ~~~\n> x", "> ~~~"),
        ("1. Do:\n\n   ```sh\n   ls", "   ```sh"),
        ("```\nx\n```", ""),
        ("> ```\n> x\nAfter", ""),
        ("words", ""),
    ],
)
def test_a_continuation_reopens_what_is_open(before: str, opening: str) -> None:
    assert fence_to_continue(before) == opening


LINES = {
    "backticks": "`" * 3000,
    "pairs of backticks": "`` " * 1500,
    "a link": f"[{'label ' * 20}]({GOOD})",
    "one link only": f"[x]({GOOD})",
    "one long word": "x" * 6000,
    "one long line": "some words of it " * 400,
    "Chinese": "这是一个很长的句子没有空格但是有逗号，" * 300,
    "Chinese without punctuation": "这是一个很长的句子没有空格" * 400,
    "Hebrew": "שלום עולם, זה משפט ארוך. " * 300,
    "Arabic": "هذه جملة طويلة، وفيها أكثر من كلمة؟ " * 200,
    "bold Chinese": f"**重点：**{'内容' * 1200}**完**",
    "emoji": "👩‍👩‍👧" * 900,
}


@BOTH
@pytest.mark.parametrize("name", LINES)
def test_an_answer_of_one_kind_is_whole_in_messages_that_fit(name: str, dialect: Dialect) -> None:
    limits = Limits(2000, cursor=" ▌", dialect=dialect)
    parts = texts(ended(composer(limits, links=frozenset({GOOD})), LINES[name]))
    assert all(0 < len(part) <= 2000 for part in parts)
    plain = "".join("".join(parts).replace("\\", "").split())
    assert plain == "".join(LINES[name].split())
    assert len(parts) <= 2 + len(LINES[name]) * (2 if "`" in LINES[name] else 1) // 1000
