"""Tests the renderer on hostile text: plain text or a file instead of rendering, bounded work, and a clear end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.platforms.adapter import Dialect, Limits
from bot.replies.links import KnownLinks
from bot.replies.markdown import render
from bot.replies.renderer import ENDS_HERE, FILE, INTERRUPTED, THE_REST, PlainRenderer
from bot.types.messages import ActionKind, FinishReason
from tests.replies.test_renderer import CURSORS, LONG, NUMBERS, composer, ended, texts
from tests.support.builders.storage_rows import USAGE

SIGNS = st.sampled_from(["", " ▌", "▌", "▌**", "`▌`", "▌\u200b", "▌ \n", "\n```\n▌", "\n```\n▌\n```", "||▌||"])
HOSTILE = st.text("`~<>&@*_|[]()▌\u202e\u200b\n ab", max_size=900)
BARS = st.text("▌*`| a\n")


@given(LONG | BARS, SIGNS, st.sampled_from(Dialect), NUMBERS, st.sampled_from(FinishReason), st.booleans())
def test_only_an_answer_that_is_still_written_ends_in_the_cursors_sign(
    text: str, end: str, dialect: Dialect, attach_over: int, reason: FinishReason, plain: bool
) -> None:
    composing = composer(Limits(300, cursor=" ▌", dialect=dialect, attach_over=attach_over))
    composing = PlainRenderer.of(composing) if plain else composing
    for frames in (
        ended(composing, text + end, reason, "It failed."),
        composing.render_as_file(text + end, reason, None, ""),
    ):
        last = "".join(char for char in texts(frames)[-1] if char.isprintable())
        assert not last.rstrip("*_~`| ").endswith("▌")
    partial = composing.render_partial(text + end, "")
    assert not partial or texts(partial)[-1].endswith(" ▌")


def test_an_answer_that_ends_in_the_cursors_sign_says_that_it_ends() -> None:
    (frame,) = ended(composer(), "A bar: ▌")
    assert frame.committed == f"A bar: ▌\n\n{ENDS_HERE}"
    (frame,) = ended(composer(Limits(2000)), "A bar: ▌")
    assert frame.committed == "A bar: ▌"


@pytest.mark.parametrize("text", ["```python", "e\u0301 and more", "&lt; and more"])
@pytest.mark.parametrize("shown", [1, 2, 3])
def test_a_cut_of_plain_text_takes_back_nothing(text: str, shown: int) -> None:
    composing = PlainRenderer.of(composer(Limits(140, attach_over=1, dialect=Dialect.SLACK)))
    (partial,), (final,) = composing.render_partial(text[:shown], ""), ended(composing, text)
    assert final.committed.startswith(partial.committed)


@given(LONG | HOSTILE, CURSORS, NUMBERS, st.sampled_from(Dialect), st.sampled_from(["", "*A remark.*"]), st.data())
def test_plain_text_grows_and_fits_as_rendered_text_does(
    text: str, cursor: str, attach_over: int, dialect: Dialect, note: str, data: st.DataObject
) -> None:
    most = data.draw(st.integers(140, 300))
    limits = Limits(most, cursor=cursor, dialect=dialect, attach_over=attach_over)
    composing = PlainRenderer.of(composer(limits, note=note, before="```python\n"))
    partial, final = (
        composing.render_partial(text[: data.draw(st.integers(0, len(text)))], ""),
        ended(composing, text),
    )
    assert all(len(shown) <= most for shown in (*texts(partial), *texts(final)))
    for before, after in zip(partial, final, strict=False):
        assert after.committed.startswith(before.committed)


@given(HOSTILE, st.sampled_from(Dialect), st.integers(140, 300))
def test_nothing_in_plain_text_is_a_mark_or_a_mention(text: str, dialect: Dialect, most: int) -> None:
    composing = PlainRenderer.of(composer(Limits(most, dialect=dialect)))
    for shown in texts([*composing.render_partial(text, ""), *ended(composing, text)]):
        assert shown.startswith("```\n")
        assert shown.endswith("\n```")
        assert "```" not in shown[4:-4]
        assert "\u202e" not in shown
        assert dialect is not Dialect.SLACK or not set("<>") & set(shown)


def test_plain_text_keeps_every_word_and_its_order() -> None:
    words = [f"word-{number}" for number in range(500)]
    parts = texts(ended(PlainRenderer.of(composer(Limits(200))), " ".join(words)))
    assert " ".join(part[4:-4].strip() for part in parts).split() == words


@pytest.mark.parametrize("plain", [False, True])
def test_of_a_very_long_text_only_what_can_be_shown_is_looked_at(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []

    def counted(text: str, dialect: Dialect, links: KnownLinks) -> str:
        rendered.append(len(text))
        return render(text, dialect, links)

    monkeypatch.setattr("bot.replies.renderer.render", counted)
    text = "Some *words* of it.\n\n" * 50_000
    composing = composer(Limits(2000, attach_over=1000, cursor="▌"))
    composing = PlainRenderer.of(composing) if plain else composing
    partial, final = composing.render_partial(text, ""), ended(composing, text)
    assert plain or 1000 < max(rendered) <= 2000
    assert sum(map(len, texts(partial))) < 1200
    assert sum(map(len, texts(final))) < 1200
    assert THE_REST in texts(final)[-1]
    assert final[-1].attachment is not None
    assert final[-1].attachment.text == text


def test_what_is_cut_from_the_source_is_in_the_file_even_if_little_is_shown() -> None:
    text = "| " + " " * 5000 + " | end |\n|--|--|\n"
    frames = ended(composer(Limits(2000, attach_over=500, dialect=Dialect.DISCORD)), text + "word " * 100)
    assert frames[-1].attachment is not None
    assert THE_REST in texts(frames)[-1]


@pytest.mark.parametrize("reason", FinishReason)
def test_an_answer_as_a_file_is_one_short_message_with_its_text(reason: FinishReason) -> None:
    text = "[x](" + "(a" * 40 + "))"
    (frame,) = composer().render_as_file(text, reason, USAGE, "It failed.")
    assert frame.committed == INTERRUPTED + ("\n\n⚠️ It failed." if reason is FinishReason.ERROR else "")
    assert (frame.attachment and (frame.attachment.name, frame.attachment.text)) == (FILE, text)
    assert (frame.final, frame.finish_reason, frame.usage) == (True, reason, USAGE)
    assert frame.buttons[0] is ActionKind.REGENERATE
    (frame,) = composer().render_as_file("  ", FinishReason.ABORT, USAGE, "")
    assert (frame.committed, frame.attachment) == ("Stopped.", None)
