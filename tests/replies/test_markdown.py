"""Tests Markdown per dialect: code unchanged, tables as code where unsupported, finished text never rendered anew."""

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bot.platforms.adapter import Dialect
from bot.platforms.splitter import split
from bot.replies.links import KnownLinks
from bot.replies.markdown import render, stable_prefix
from tests.support.builders.markdown_samples import BAD, BLOCKS, GOOD, INLINE, MARKDOWN, OTHER_LINKS, live_urls

PEOPLE = KnownLinks({GOOD})
DIALECTS = st.sampled_from(Dialect)
MARKS = st.sampled_from(
    [
        "<",
        ">",
        "&",
        "<!here>",
        "<@U1|x>",
        "\\<",
        "\\&",
        "&lt;",
        "> ",
        "- > ",
        f"<{GOOD}>",
        f"[l](<{GOOD}>)",
        f"{GOOD}&b=1",
        "`<`",
    ]
)
MARKED = st.lists(st.one_of(BLOCKS, st.lists(st.one_of(INLINE, MARKS), max_size=8).map("".join)), max_size=10).map(
    "\n".join
)
_TEXT_OF_SLACK = re.compile(
    r"(?:^[ \t]*(?:(?:>|[-*+][ \t]|\d{1,3}[.)][ \t])[ \t]*)*|[^&<>]|&(?:lt|gt|amp);|https?://[^\s<>|`]+)*", re.M
)
"""Text that Slack does not parse: no bare `<`, no bare `&` outside an address."""
TABLE = """Before:
| Name | Size |
|------|:----:|
| smollm2 | 0.1 |
| a \\| b | |
After."""


def test_a_table_is_code_with_straight_columns_where_there_are_no_tables() -> None:
    assert render(TABLE, Dialect.DISCORD, PEOPLE).splitlines() == [
        "Before:",
        "```",
        "Name    | Size",
        "--------+-----",
        "smollm2 | 0.1",
        "a | b   |",
        "```",
        "After.",
    ]
    assert render(TABLE, Dialect.MARKDOWN, PEOPLE) == TABLE


def test_rows_may_be_longer_or_shorter_than_the_header_and_need_no_outer_bars() -> None:
    lines = render("a | b\n--|--\n1\\| |\n1 | 2 | 3\n| |x|", Dialect.DISCORD, PEOPLE).splitlines()
    assert lines == ["```", "a  | b |", "---+---+--", "1| |   |", "1  | 2 | 3", "   | x |", "```"]


@pytest.mark.parametrize("text", ["a | b\nc | d", "|\nword", "a | b"])
def test_bars_alone_are_no_table(text: str) -> None:
    assert render(text, Dialect.DISCORD, PEOPLE) == text


@pytest.mark.parametrize("fence", ["```python", "````", "  ```", "- ```sh", "1. ```", "> ```"])
@given(dialect=DIALECTS)
def test_code_is_left_alone(fence: str, dialect: Dialect) -> None:
    marks, quote = re.sub(r"[^`]", "", fence), ">" * fence.startswith(">")
    code = f"\n{quote}{BAD} `x\n{quote}| a | b |\n{quote}|---|---|\n{quote}"
    shown = fence if dialect is Dialect.MARKDOWN else fence.replace("````", "```").lstrip()
    closing = marks if dialect is Dialect.MARKDOWN else "```"
    assert render(f"{fence}{code}{marks}\n{BAD}", dialect, PEOPLE) == f"{shown}{code}{closing}\n`{BAD}`"


def test_backticks_fence_the_code_where_tildes_do_not() -> None:
    assert render(f"~~~sh\ncurl {BAD}\n~~~\nEnd.", Dialect.DISCORD, PEOPLE) == f"```sh\ncurl {BAD}\n```\nEnd."
    assert render(f"~~~~\n~~~\n{BAD}", Dialect.DISCORD, PEOPLE) == f"```\n~~~\n{BAD}"
    assert render("~~~sh\nls\n~~~", Dialect.MARKDOWN, PEOPLE) == "~~~sh\nls\n~~~"


def test_a_row_of_backticks_in_a_sentence_opens_nothing() -> None:
    assert render(f"``` is a fence `x\n{BAD}", Dialect.DISCORD, PEOPLE) == f"\\`\\`\\` is a fence \\`x\n`{BAD}`"


@given(MARKDOWN, DIALECTS)
def test_a_line_of_code_is_never_touched(text: str, dialect: Dialect) -> None:
    # A row of very many marks is text, and fences in containers are tested elsewhere.
    text = text.replace("`" * 14, "").replace("- ```", "").replace("> ```", "")
    shown = [line.strip() for line in unescape(render(text, dialect, PEOPLE)).replace("\u200b", "").split("\n")]
    lines = text.split("\n")
    for token in MarkdownIt("commonmark").disable(["list", "blockquote", "code", "html_block"]).parse(text):
        for line in lines[token.map[0] + 1 : token.map[1] - 1] if token.type == "fence" and token.map else []:
            assert line.strip() in shown, "a line inside of a fence"


@given(MARKDOWN)
def test_no_link_that_no_user_wrote_is_left(text: str) -> None:
    if "```" not in text and "~~~" not in text:  # code is tested elsewhere
        for dialect in Dialect:
            assert "bad.example" not in live_urls(render(text, dialect, PEOPLE))


@given(MARKDOWN, MARKDOWN, st.sampled_from(["", "\n"]), DIALECTS)
def test_what_is_settled_stays_whatever_comes(text: str, more: str, between: str, dialect: Dialect) -> None:
    sure = text[: stable_prefix(text, dialect)]
    assert render(text + between + more, dialect, PEOPLE).startswith(render(sure, dialect, PEOPLE))


@given(MARKDOWN)
def test_a_finished_line_is_settled_unless_it_may_belong_to_a_table(text: str) -> None:
    assert stable_prefix(f"{text}\n", Dialect.MARKDOWN) == len(text) + 1
    if "|" not in text:
        assert stable_prefix(f"{text}\n", Dialect.DISCORD) == len(text) + 1


def test_a_table_is_settled_when_the_line_after_it_is_finished() -> None:
    before = len("Before:\n")
    for end in range(before, TABLE.index("After")):
        assert stable_prefix(TABLE[:end], Dialect.DISCORD) == before
    assert stable_prefix(TABLE, Dialect.DISCORD) == before
    assert stable_prefix(f"{TABLE}\n", Dialect.DISCORD) == len(TABLE) + 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a < b && c > d", "a &lt; b &amp;&amp; c &gt; d"),
        ("<!here> <@U1> &lt;", "&lt;!here&gt; &lt;@U1&gt; &amp;lt;"),
        ("> quoted > not\n- > in a list\n>> twice", "> quoted &gt; not\n- > in a list\n>> twice"),
        ("`a < b` and `` `& ` ``", "`a &lt; b` and `` `&amp; ` ``"),
        ("\\< \\& \\* `\\<`", "&lt; &amp; \\* `\\&lt;`"),
        ("```c\n>>> a<b && \\<\n```", "```c\n&gt;&gt;&gt; a&lt;b &amp;&amp; \\&lt;\n```"),
        ("> ```\n> a > b\n> ```", "> ```\n> a &gt; b\n> ```"),
        (f"<{GOOD}> [l & m](<{GOOD}>) [n]({GOOD})", f"&lt;{GOOD} &gt; [l &amp; m]({GOOD}) [n]({GOOD})"),
        ("http://x?a&b", "`http://x?a&amp;b`"),
        ("| a | b |\n|---|---|\n| < | & |", "| a | b |\n|---|---|\n| &lt; | &amp; |"),
    ],
)
def test_nothing_is_a_mark_of_slacks_where_it_has_its_own(text: str, shown: str) -> None:
    assert render(text, Dialect.SLACK, PEOPLE) == shown


def test_an_address_keeps_its_ampersands() -> None:
    url = "https://good.example/?a=1&b=2"
    assert render(f"See {url} & [this]({url}).", Dialect.SLACK, KnownLinks({url})) == f"See {url} &amp; [this]({url})."


@given(MARKED)
def test_slack_reads_only_text(text: str) -> None:
    assert _TEXT_OF_SLACK.fullmatch(render(text, Dialect.SLACK, PEOPLE))


@given(MARKED, MARKED, st.sampled_from(["", "\n"]))
def test_what_is_escaped_is_settled_too(text: str, more: str, between: str) -> None:
    sure = text[: stable_prefix(text, Dialect.SLACK)]
    assert render(text + between + more, Dialect.SLACK, PEOPLE).startswith(render(sure, Dialect.SLACK, PEOPLE))


@given(st.text("<>&al ;", max_size=900), st.integers(100, 200))
def test_no_entity_is_cut_in_two(text: str, limit: int) -> None:
    parts = split(render(text, Dialect.SLACK, PEOPLE), limit)
    for part in parts:
        assert _TEXT_OF_SLACK.fullmatch(part.text)
        assert _TEXT_OF_SLACK.fullmatch(part.text[: part.committed])


def test_our_own_words_are_no_marks_of_slacks() -> None:
    assert render("<!here>.png & 'x'", Dialect.SLACK, KnownLinks()) == "&lt;!here&gt;.png &amp; 'x'"
    assert render("<!here>", Dialect.DISCORD, KnownLinks()) == "<!here>"


@pytest.mark.fault(45)
def test_a_table_that_would_grow_too_large_is_code_as_it_is() -> None:
    wide = "| a | b |\n|---|---|\n| " + "w" * 5000 + " | b |\n" + "| a | b |\n" * 500 + "End."
    assert render(wide, Dialect.DISCORD, PEOPLE) == wide.replace("| a", "```\n| a", 1).replace("End.", "```\nEnd.")
    ragged = "| a | b |\n|---|---|\n" + "| a " * 5000 + "|\n" + "| a |\n" * 500 + "End."
    assert render(ragged, Dialect.DISCORD, PEOPLE) == f"```\n{ragged.removesuffix('End.')}```\nEnd."


def test_a_row_with_a_fence_in_it_does_not_close_the_code_of_the_table() -> None:
    shown = render("a | b\n--|--\n1 | 2\n3 | ```", Dialect.DISCORD, PEOPLE)
    assert shown == "```\na | b\n--+----\n1 | 2\n3 | `\u200b`\u200b`\n```"


@pytest.mark.fault(46)
@pytest.mark.parametrize("dialect", Dialect)
def test_what_is_shown_stands_in_the_order_in_which_it_was_written(dialect: Dialect) -> None:
    hidden = "".join(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
    assert render(f"a{hidden}b `c{hidden}`\n```\n{hidden}d\n```", dialect, PEOPLE) == "ab `c`\n```\nd\n```"
    assert BAD not in render(f"see htt{hidden}ps://bad.example/x", dialect, PEOPLE).replace(f"`{BAD}`", "")
    assert render("\u05e9\u05dc\u05d5\u05dd\u200f!", dialect, PEOPLE) == "\u05e9\u05dc\u05d5\u05dd\u200f!"


@pytest.mark.fault(46)
@given(st.lists(st.one_of(OTHER_LINKS, INLINE), max_size=12).map("".join))
def test_no_link_of_another_form_is_left(text: str) -> None:
    for dialect in Dialect:
        assert "bad.example" not in live_urls(render(text, dialect, PEOPLE).replace("&lt;", "<").replace("&gt;", ">"))


@pytest.mark.fault(45)
@given(
    st.lists(st.one_of(INLINE, BLOCKS, st.sampled_from(["\n", "(a", "))", "[x]("])), max_size=40).map("".join), DIALECTS
)
def test_what_was_settled_of_any_beginning_stays(text: str, dialect: Dialect) -> None:
    whole = render(text, dialect, PEOPLE)
    for end in range(len(text)):
        assert whole.startswith(render(text[: stable_prefix(text[:end], dialect)], dialect, PEOPLE))


def test_a_rule_below_a_table_may_still_become_its_row() -> None:
    table = "| a | b |\n|---|---|\n| 1 | 2 |\n"
    assert stable_prefix(f"{table}---", Dialect.DISCORD) == 0
    assert stable_prefix(f"{table}---\n", Dialect.DISCORD) == len(table) + 4
