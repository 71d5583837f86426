"""Tests the conversion of Markdown to Slack's mrkdwn: equivalent markup, escaped once, and no mentions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.slack.outbound.mrkdwn import mrkdwn
from bot.platforms.markdown_scanner import RULE
from tests.support.builders.markdown_samples import MARKDOWN

MARKS = st.sampled_from(
    [
        "<!here>",
        "<@U1>",
        "[x](!here)",
        "[x](<@U1>)",
        "![x](!channel)",
        "[x]: !here\n\n[x]",
        "<",
        ">",
        "&",
        "|",
        "\ue001",
    ]
)
TEXTS = st.lists(st.one_of(MARKDOWN, MARKS, st.text(max_size=8)), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("a **b** *c* ~~d~~", "a *b* _c_ ~d~"),
        ("# A **head**\n\ntext", "*A head*\n\ntext"),
        ("- one\n  - two", "•   one\n    ◦   two"),
        ("x < y && <!here>", "x &lt; y &amp;&amp; &lt;!here&gt;"),
        ("`a <b> & c`", "`a &lt;b&gt; &amp; c`"),
        ("```sh\n#!/bin/sh\nls > x && **no**\n```", "```\n#!/bin/sh\nls &gt; x &amp;&amp; **no**\n```"),
        ("[a & b](https://e.x/?a=1&b=2)", "<https://e.x/?a=1&b=2|a &amp; b>"),
        ("[a](https://e.x/?a=<b>)", "<https://e.x/?a=%3Cb%3E|a>"),
        ("[a](https://e.x/%ee%80%81)", "<https://e.x/%ee%80%81|a>"),
        ("> quoted > not", "> quoted &gt; not"),
        ("a\n\n---\n\nb", f"a\n\n{RULE}\n\nb"),
        ("a\n***\nb", f"a\n{RULE}\nb"),
        ("- [ ] open\n- [x] done", "•   ☐ open\n•   ☑ done"),
        ("one<br>two `a<br>b`", "one\ntwo `a&lt;br&gt;b`"),
        ("| a | b |\n|---|---|\n| 1 | **2** |\n\nEnd", "```\n| a | b |\n|---|---|\n| 1 | **2** |\n```\nEnd"),
        ("````md\n```\n- [ ] x\n```\n````", "```\n`\u200b`\u200b`\n- [ ] x\n`\u200b`\u200b`\n```"),
        ("~~~\n```\n~~~", "```\n`\u200b`\u200b`\n```"),
        ("##### Deep", "*Deep*"),
        ("[x](!here) [y](@U1) ![z](!channel)", "x y z"),
    ],
)
def test_markdown_is_said_in_mrkdwn(markdown: str, shown: str) -> None:
    assert mrkdwn(markdown) == shown


@given(TEXTS)
def test_what_stands_between_angle_brackets_is_an_address(markdown: str) -> None:
    shown = mrkdwn(markdown)
    marks = re.findall(r"<([^<>]*)>", shown)
    assert shown.count("<") == len(marks)
    assert all(re.match(r"https?://|mailto:", mark, re.IGNORECASE) for mark in marks)
    outside = re.sub(r"<[^<>|]*", "", shown)
    assert not re.search(r"&(?!amp;|lt;|gt;)", outside)
