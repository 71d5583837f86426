"""Tests what is read of a Slack message: text, blocks and attachments, each once, as Markdown."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.slack.json_fields import Raw
from adapters.slack.message_content import CUT, MAX_CHARS
from adapters.slack.message_text import plain_text
from adapters.slack.payloads import message_of
from tests.support.builders.slack_adapter import run_slack_adapter

Json = dict[str, Any]  # Any: JSON
NAMES = {"U0ANA": "ana", "C0GEN": "general"}


def read(raw: Mapping[str, Any]) -> str:
    """What the model would read of a message."""
    message = message_of({"ts": "1.0", "bot_id": "B1", **raw}, "C1")
    assert message is not None
    return plain_text(message.content, NAMES, "U0BOT")


def text(value: str, **style: bool) -> Json:
    """A text element of rich text."""
    return {"type": "text", "text": value, **({"style": style} if style else {})}


def section(*elements: Json, kind: str = "section") -> Json:
    """A part of rich text."""
    return {"type": f"rich_text_{kind}", "elements": list(elements)}


def rich(*parts: Json) -> Json:
    """A rich text block."""
    return {"type": "rich_text", "elements": list(parts)}


def listed(*items: str, style: str = "bullet", indent: int = 0, **more: int) -> Json:
    """A list of rich text."""
    elements = [section(text(item)) for item in items]
    return {"type": "rich_text_list", "style": style, "indent": indent, "elements": elements, **more}


def mrkdwn(value: str) -> Json:
    """A text object with Slack's mark-up."""
    return {"type": "mrkdwn", "text": value}


def plain(value: str) -> Json:
    """A text object without mark-up."""
    return {"type": "plain_text", "text": value}


TABLE = {
    "type": "table",
    "rows": [
        [{"type": "raw_text", "text": "host"}, {"type": "raw_text", "text": "disk"}],
        [{"type": "raw_text", "text": "node-7"}, rich(section(text("99%", bold=True)))],
        [
            {"type": "raw_text", "text": "a|b <c>"},
            {"type": "raw_number", "value": 5},
            {"type": "raw_text", "text": "!"},
        ],
    ],
}
TABLE_TEXT = "| host | disk |  |\n| --- | --- | --- |\n| node-7 | **99%** |  |\n| a\\|b <c> | 5 | ! |"

BLOCKS = [
    ("a table", [TABLE], TABLE_TEXT),
    ("an alert", [{"type": "header", "text": plain("Disk & memory")}], "# Disk & memory"),
    ("an encoded header", [{"type": "header", "text": plain("Disk &amp; memory")}], "# Disk & memory"),
    (
        "a section with fields",
        [{"type": "section", "text": mrkdwn("*Build* <https://ci.example/42|42>"), "fields": [mrkdwn("*By:*\nana")]}],
        "**Build** 42 (https://ci.example/42)\n**By:** ana",
    ),
    (
        "context",
        [{"type": "context", "elements": [{"type": "image", "alt_text": "logo"}, mrkdwn("by <@U0ANA>")]}],
        "[image: logo] by @ana",
    ),
    (
        "an image between dividers",
        [{"type": "divider"}, {"type": "image", "alt_text": "a cat", "title": plain("Tom")}, {"type": "divider"}],
        "---\n\n[image: Tom: a cat]\n\n---",
    ),
    ("markdown", [{"type": "markdown", "text": "## Done\n- a"}], "## Done\n- a"),
    ("buttons", [{"type": "actions", "elements": [{"type": "button", "text": plain("Ack")}]}], ""),
    ("a video", [{"type": "video", "title": plain("How to"), "description": plain("in 2 min")}], "How to\n\nin 2 min"),
    (
        "a kind to come",
        [{"type": "card", "title": plain("News"), "body": mrkdwn("~old~ *new*")}],
        "News\n\n~~old~~ **new**",
    ),
    (
        "styles",
        [
            rich(
                section(text("a "), text("b ", bold=True), text("c", italic=True, strike=True), text(" x`y", code=True))
            )
        ],
        "a **b** ~~*c*~~ ``x`y``",
    ),
    (
        "a nested list",
        [
            rich(
                section(text("todo\n")),
                listed("a", style="ordered"),
                listed("b", indent=1),
                listed("c", style="ordered"),
            )
        ],
        "todo\n1. a\n    - b\n2. c",
    ),
    ("a list that goes on", [rich(listed("d", style="ordered", offset=3))], "4. d"),
    (
        "a quote and code",
        [rich(section(text("one\ntwo"), kind="quote"), section(text("if a < b:\n    `x`\n"), kind="preformatted"))],
        "> one\n> two\n```\nif a < b:\n    `x`\n```",
    ),
    ("code with a fence", [rich(section(text("```\nx\n```"), kind="preformatted"))], "````\n```\nx\n```\n````"),
    (
        "what is mentioned",
        [
            rich(
                section(
                    {"type": "user", "user_id": "U0ANA"},
                    text(" in "),
                    {"type": "channel", "channel_id": "C0GEN"},
                    text(" "),
                    {"type": "broadcast", "range": "here"},
                    {"type": "emoji", "name": "tada", "unicode": "1f389"},
                    {"type": "usergroup", "usergroup_id": "S1"},
                    {"type": "date", "timestamp": 1, "fallback": " on May 1 "},
                    {"type": "link", "url": "https://a.example/x|y?b=1&c=2", "text": "the <docs>"},
                    {"type": "color", "value": "#fff"},
                )
            )
        ],
        "@ana in #general @here:tada:@a group on May 1 the <docs> (https://a.example/x%7Cy?b=1&c=2)#fff",
    ),
]


@pytest.mark.parametrize(("blocks", "expected"), [each[1:] for each in BLOCKS], ids=[each[0] for each in BLOCKS])
def test_blocks_are_read_as_markdown(blocks: list[Json], expected: str) -> None:
    assert read({"blocks": blocks}) == expected
    assert read({"attachments": [{"blocks": blocks, "fallback": "[no preview available]"}]}) == (
        expected or "[no preview available]"
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"text": "New alert", "attachments": [{"text": "node-7 at 99%"}]}, "New alert\n\nnode-7 at 99%"),
        ({"text": "New alert", "attachments": [{"fallback": "node-7"}]}, "New alert\n\nnode-7"),
        ({"text": "See", "blocks": [TABLE]}, f"See\n\n{TABLE_TEXT}"),
        (
            {
                "text": "why?",
                "attachments": [
                    {"is_share": True, "author_name": "CI", "text": "Deploy failed", "fallback": "[x] Deploy"}
                ],
            },
            "why?\n\n> CI\n> Deploy failed",
        ),
        (
            {
                "attachments": [
                    {
                        "is_msg_unfurl": True,
                        "text": "Deploy *failed*",
                        "message_blocks": [
                            {"message": {"blocks": [rich(section(text("Deploy "), text("failed", bold=True)))]}}
                        ],
                    }
                ]
            },
            "> Deploy **failed**",
        ),
        (
            {
                "attachments": [
                    {
                        "pretext": "Alert",
                        "author_name": "watchdog",
                        "title": "Disk full",
                        "title_link": "https://a.example/1",
                        "text": "on *node-7*",
                        "fields": [{"title": "Level", "value": "high"}, {"value": "now"}],
                        "footer": "a footer",
                        "fallback": "Disk full on node-7",
                    }
                ]
            },
            "Alert\nwatchdog\nDisk full (https://a.example/1)\non **node-7**\nLevel: high\nnow\na footer",
        ),
        (
            {
                "text": "Deploy report: 3 errors, see <https://a.example|logs>",
                "blocks": [
                    {"type": "header", "text": plain("Deploy report")},
                    {"type": "section", "text": mrkdwn("*3 errors*, see <https://a.example|logs>")},
                ],
            },
            "# Deploy report\n\n**3 errors**, see logs (https://a.example)",
        ),
        ({"text": "New alert", "attachments": [{"pretext": "New alert", "text": "disk"}]}, "New alert\n\ndisk"),
        ({"text": "🎉", "attachments": [{"text": "🎈"}, {"text": "🎈"}]}, "🎉\n\n🎈"),
    ],
)
def test_text_blocks_and_attachments_come_once_each(raw: Raw, expected: str) -> None:
    assert read(raw) == expected


def test_a_persons_message_is_read_from_its_blocks_alone() -> None:
    raw = {
        "user": "U0ANA",
        "bot_id": "",
        "text": "*todo* :wave::skin-tone-2:\n• a &amp; b",
        "blocks": [
            rich(section(text("todo", bold=True), {"type": "emoji", "name": "wave"}, text("\n")), listed("a & b"))
        ],
    }
    assert read(raw) == "**todo**:wave:\n- a & b"


def test_the_files_of_a_forwarded_message_come_along() -> None:
    share = {"is_share": True, "text": "see", "files": [{"id": "F2", "name": "b.txt"}]}
    message = message_of({"ts": "1.0", "user": "U1", "files": [{"id": "F1"}], "attachments": [share]}, "C1")
    assert message is not None
    assert [file.id for file in message.files] == ["F1", "F2"]


def test_what_is_read_is_bounded_and_no_mention_is_cut_in_two() -> None:
    long = {"blocks": [{"type": "section", "text": mrkdwn("<@U0ANA> &amp; " * 20)}] * 500}
    for raw in (long, {"attachments": [long]}, {"text": "<@U0ANA|ana>" * 9000}):
        shown = read(raw)
        assert shown.endswith(CUT)
        assert len(shown) <= MAX_CHARS
        assert "<@" not in shown.replace("<@U0ANA>", "")
        assert "&am" not in shown


WORD = st.text(st.sampled_from("abcdefghij"), min_size=12, max_size=12)


@given(st.lists(WORD, min_size=8, max_size=8, unique=True), st.booleans())
def test_each_piece_comes_once_whatever_repeats_it(words: list[str], copied: bool) -> None:
    one, two, three, four, five, six, seven, eight = words
    raw = {
        "text": f"{two} {three}" if copied else one,
        "blocks": [
            {"type": "header", "text": plain(two)},
            {"type": "section", "text": mrkdwn(f"*{three}*"), "fields": [mrkdwn(four)]},
        ],
        "attachments": [
            {"text": five, "fallback": five, "fields": [{"title": six, "value": seven}]},
            {"pretext": three, "blocks": [rich(section(text(eight)))], "fallback": five},
        ],
    }
    shown = read(raw)
    expected = [*([] if copied else [one]), two, three, four, five, six, seven, eight]
    assert [shown.count(word) for word in expected] == [1] * len(expected)


TEXT_KEYS = ("text", "title", "alt_text", "value", "url", "user_id", "name", "caption", "fallback")
PART_KEYS = ("type", "elements", "fields", "rows", "accessory", "blocks", "message_blocks", "message")
KEYS = st.sampled_from((*TEXT_KEYS, *PART_KEYS, "style", "indent", "offset", "is_share"))
BLOCK_TYPES = ("rich_text", "section", "header", "context", "image", "table", "markdown", "other")
ELEMENT_TYPES = ("rich_text_list", "rich_text_section", "rich_text_preformatted", "rich_text_quote", "mrkdwn")
TYPES = st.sampled_from((*BLOCK_TYPES, *ELEMENT_TYPES, "link", "text", "user", "date", "raw_number"))
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | TYPES
JUNK = st.recursive(
    SCALAR, lambda each: st.lists(each, max_size=3) | st.dictionaries(KEYS, each, max_size=4), max_leaves=20
)


@given(st.fixed_dictionaries({"blocks": JUNK | st.lists(JUNK), "attachments": JUNK | st.lists(JUNK), "text": JUNK}))
def test_malformed_blocks_and_attachments_are_left_out(raw: Json) -> None:
    assert isinstance(read(raw), str)


async def test_blocks_and_attachments_are_read_in_a_message_a_thread_and_the_messages_before_it() -> None:
    share = {"attachments": [{"is_share": True, "author_name": "CI", "text": "Deploy failed"}]}
    async with run_slack_adapter(ambient=2) as setup:
        watchdog = setup.server.user("watchdog", bot=True)
        alert = await watchdog.says(setup.general, "New alert", extra={"attachments": [{"text": "node-7 at 99%"}]})
        await watchdog.says(setup.general, "", thread=alert, extra={"blocks": [TABLE]})
        await setup.ana.says(setup.general, "why?", mention=True, thread=alert, extra=share)
        event = await setup.core.message()
        assert event.text == "why?\n\n> CI\n> Deploy failed"
        assert [each.text for each in event.context] == ["New alert\n\nnode-7 at 99%", TABLE_TEXT]
        await setup.ana.says(setup.general, "and this?", mention=True)
        event = await setup.core.message(2)
        assert [each.text for each in event.context] == ["New alert\n\nnode-7 at 99%"]


async def test_a_message_that_only_forwards_another_one_is_a_question() -> None:
    async with run_slack_adapter() as setup:
        dm = setup.server.dm(setup.ana)
        await setup.ana.says(dm, "", extra={"attachments": [{"is_share": True, "text": "Deploy <@U0X> failed"}]})
        assert (await setup.core.message()).text == "> Deploy @someone failed"


def test_a_mention_in_a_forwarded_message_does_not_address_the_bot() -> None:
    message = message_of({"ts": "1.0", "text": "see", "attachments": [{"text": "<@U0BOT> hi"}]}, "C1")
    assert message is not None
    assert "U0BOT" not in message.text
    assert message.attached == "<@U0BOT> hi"
