"""Tests the plain text of Slack's markup, and which JSON counts as a user's message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.slack.json_fields import Raw
from adapters.slack.message_text import channels_in, decoded, mentions, plain_text, users_in
from adapters.slack.payloads import file_of, message_of

ME = "U0BOT"
NAMES = {"U0ANA": "ana", "W0BEN": "ben & co", "C0GEN": "general", ME: "inhouse"}


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("hello", "hello"),
        ("<@U0BOT> hello", "hello"),
        ("  <@U0BOT|inhouse>, <@U0BOT>: is <@U0BOT> well?", "is @inhouse well?"),
        ("ask <@U0ANA> or <@W0BEN> or <@U0GONE> or <@U0GONE|gone>", "ask @ana or @ben & co or @someone or @gone"),
        ("in <#C0GEN> or <#C0GEN|> or <#C0X|random> or <#C0Y>", "in #general or #general or #random or #a channel"),
        ("<!here> <!channel> <!everyone>", "@here @channel @everyone"),
        ("<!subteam^S0X|@mods> <!subteam^S0Y>", "@mods @a group"),
        ("<!date^1392734382^{date}|Feb 18>", "Feb 18"),
        ("<https://example.com/a?b=1&amp;c=2>", "https://example.com/a?b=1&c=2"),
        ("<https://example.com|the &lt;docs&gt;>", "the <docs> (https://example.com)"),
        ("<http://example.com|example.com>", "http://example.com"),
        ("<mailto:a@b.example|a@b.example>", "a@b.example"),
        ("1 &lt; 2 &amp;&amp; 3 &gt; 2, &amp;lt; too", "1 < 2 && 3 > 2, &lt; too"),
        ("```if a &lt; b:\n    pass```", "```if a < b:\n    pass```"),
        ("<@U0BOT>", ""),
    ],
)
def test_mark_up_becomes_what_a_reader_sees(sent: str, read: str) -> None:
    assert plain_text(sent, NAMES, ME) == read


def test_who_and_what_is_mentioned_is_known_once_each() -> None:
    text = "<@U0ANA> <@U0ANA|ana> <@W0BEN> <#C0GEN> <#C0X|random> &lt;@U0EVE&gt;"
    assert users_in(text) == ["U0ANA", "W0BEN"]
    assert channels_in(text) == ["C0GEN"]
    assert mentions(text, "W0BEN")
    assert not mentions(text, "U0EVE")
    assert not mentions(text, "U0AN")


@given(st.text())
def test_what_people_typed_comes_back_as_they_typed_it(typed: str) -> None:
    sent = typed.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert decoded(sent) == typed
    assert plain_text(sent, {}, ME) == typed.strip()


SCALAR = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
JSON = st.recursive(SCALAR, lambda each: st.lists(each, max_size=2))
FIELDS = ("ts", "channel", "user", "text", "thread_ts", "subtype", "files", "attachments", "bot_profile")
INNER = st.dictionaries(st.sampled_from(["id", "name", "size", "text", "mode"]), JSON)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON | INNER | st.lists(INNER, max_size=2)))
def test_whatever_comes_it_is_a_message_or_none(raw: Raw) -> None:
    message = message_of(raw, "C1")
    assert message is None or message.sent_at >= 0


def test_a_message_is_known_by_its_parts() -> None:
    raw = {"ts": "17.5", "thread_ts": "17.5", "user": "U1", "text": "hi", "files": [{"id": "F1", "size": "big"}]}
    message = message_of(raw, "D1")
    assert message is not None
    assert (message.thread, message.private, message.sent_at) == ("", True, 17.5)
    assert message.files[0].size == 0
    assert message_of({**raw, "subtype": "channel_join"}, "D1") is None
    assert message_of({**raw, "ts": "soon"}, "D1") is None
    alert = message_of({"ts": "1.0", "bot_id": "B1", "attachments": [{"fallback": "disk full"}]}, "C1")
    assert alert is not None
    assert alert.content == "disk full"


def test_a_file_tells_where_it_lies() -> None:
    assert file_of({"url_private": "https://files.slack.com/a"}).url == "https://files.slack.com/a"
    assert file_of({"url_private": "https://files.slack.com/a", "file_access": "check_file_info"}).url == ""
    assert file_of({"mode": "external"}).external
    assert file_of({"mode": "tombstone"}).deleted
