"""Tests arbitrary model output in each dialect: short messages, the whole text, whole characters and fences."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.platforms.adapter import Dialect
from bot.platforms.splitter import open_fence, split
from bot.replies.links import KnownLinks
from bot.replies.markdown import render
from tests.support.builders.markdown_samples import MARKDOWN

EMOJI = st.sampled_from(["🙂", "👩‍👩‍👧", "🏳️‍🌈", "🇳🇱", "é", "नमस्ते", "東京", "\u2028", "&", "<", "\0", "\x1b[0m"])
LONG = st.lists(st.one_of(MARKDOWN, EMOJI, st.text(max_size=80)), max_size=30).map("".join)
LIMITS = st.integers(100, 400)


def visible(text: str) -> str:
    """The text without white space and fence markers."""
    return "".join(text.replace("`", "").replace("~", "").split())


@pytest.mark.fault(24)
@given(LONG, LIMITS, st.sampled_from(list(Dialect)))
@example("```python\n" + "print('x')\n" * 200 + "```", 100, Dialect.SLACK)
@example("🙂" * 1000, 101, Dialect.DISCORD)
def test_every_message_is_short_whole_and_closed(text: str, limit: int, dialect: Dialect) -> None:
    parts = split(render(text, dialect, KnownLinks()), limit)
    for part in parts:
        assert len(part.text) <= limit
        part.text.encode()  # no half of a surrogate pair
        assert not open_fence(part.text)


@pytest.mark.fault(24)
@given(LONG, LIMITS)
def test_no_character_of_the_text_is_lost(text: str, limit: int) -> None:
    left = iter("".join(visible(part.text) for part in split(text, limit)))
    lost = [char for char in visible(text) if char not in left]  # reopened fences may add characters, in order
    assert not lost
