"""Tests the messages of an answer: while it grows, when it has ended, and where it is split."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.platforms.adapter import Dialect, Limits
from bot.platforms.splitter import open_fence
from bot.replies import renderer as frames
from bot.replies.links import KnownLinks
from bot.replies.markdown import render
from bot.replies.renderer import THE_REST, Renderer, reply_id
from bot.types.messages import ActionKind, FinishReason, Reply
from tests.support.builders.markdown_samples import BAD, GOOD, MARKDOWN
from tests.support.builders.storage_rows import USAGE, asked

LIMITS = Limits(max_chars=2000, cursor=" ▌")
REQUEST = asked("question")
TABLE, BOXED = "a | b\n--|--\n1 | 2", "```\na | b\n--+--\n1 | 2\n```"
CURSORS = st.sampled_from(["", " ▌", "▌" * 40])
NUMBERS = st.integers(0, 400)
LONG = st.lists(MARKDOWN, min_size=1, max_size=6).map("\n\n".join)


def composer(limits: Limits = LIMITS, **more: object) -> Renderer:
    return replace(Renderer(REQUEST, limits), **more)  # type: ignore[arg-type]  # the fields of Composer


def texts(frames: list[Reply]) -> list[str]:
    return [frame.committed + frame.tail for frame in frames]


def ended(composer: Renderer, text: str, reason: FinishReason = FinishReason.STOP, error: str = "") -> list[Reply]:
    return composer.render_final(text, reason, USAGE, error)


@given(LONG, CURSORS, NUMBERS, st.sampled_from(["", "*A remark.*"]), st.data())
def test_what_is_committed_is_a_beginning_of_the_final_message(
    text: str, cursor: str, attach_over: int, note: str, data: st.DataObject
) -> None:
    limits = Limits(data.draw(st.integers(140, 300)), cursor=cursor, attach_over=attach_over)
    composing = composer(limits, note=note, links=frozenset({GOOD}))
    end = data.draw(st.integers(0, len(text)))
    partial, final = composing.render_partial(text[:end], ""), ended(composing, text)
    assert len(partial) <= len(final)
    for before, after in zip(partial, final, strict=False):
        assert after.reply_id == before.reply_id
        assert after.committed.startswith(before.committed)


@given(LONG, st.sampled_from(Dialect), NUMBERS, st.integers(140, 300), CURSORS, st.sampled_from(FinishReason))
def test_no_message_is_longer_than_the_platform_takes(
    text: str, dialect: Dialect, attach_over: int, most: int, cursor: str, reason: FinishReason
) -> None:
    composing = composer(Limits(most, cursor=cursor, attach_over=attach_over, dialect=dialect))
    partial, final = composing.render_partial(text, ""), ended(composing, text, reason, "It failed.")
    assert all(len(shown) <= most for shown in (*texts(partial), *texts(final)))
    assert not any(open_fence(shown) for shown in texts(final))
    assert [frame.part for frame in final] == list(range(len(final)))


@given(LONG, st.data())
def test_where_tables_become_code_only_what_may_still_be_one_is_not_committed(text: str, data: st.DataObject) -> None:
    composing = composer(Limits(data.draw(st.integers(102, 2000)), dialect=Dialect.DISCORD))
    end = data.draw(st.integers(0, len(text)))
    for before, after in zip(composing.render_partial(text[:end], ""), ended(composing, text), strict=False):
        assert after.committed.startswith(before.committed)
    finished = f"Some words.\n{TABLE}\nMore words.\n"
    (frame,) = composer(Limits(2000, dialect=Dialect.DISCORD)).render_partial(finished + "and |", "")
    assert frame.committed == f"Some words.\n{BOXED}\nMore words."


def test_before_the_first_words_there_is_the_line_or_nothing() -> None:
    assert composer().render_partial("", "") == []
    assert composer().render_partial(" \n", "") == []
    (frame,) = composer(note="*A remark.*").render_partial("", "2nd in line")
    assert (frame.committed, frame.tail, frame.buttons) == ("", "2nd in line", (ActionKind.STOP,))


def test_the_cursor_stands_at_the_end_of_the_last_message_and_stop_under_the_first() -> None:
    frames = composer(Limits(120, cursor="▌")).render_partial("words of it. " * 20, "2nd in line")
    assert [frame.tail.endswith("▌") for frame in frames] == [False, False, True]
    assert [frame.buttons for frame in frames] == [(ActionKind.STOP,), (), (ActionKind.STOP,)]
    assert not any(frame.final for frame in frames)


def test_the_remark_stands_above_the_answer_from_its_first_words_on() -> None:
    composing = composer(note="*I could not read a.png.*")
    assert texts(composing.render_partial("Hello", "")) == ["*I could not read a.png.*\n\nHello ▌"]
    assert texts(ended(composing, "Hello.")) == ["*I could not read a.png.*\n\nHello."]


def test_a_url_is_a_link_only_if_a_person_wrote_it() -> None:
    composing = composer(links=frozenset({GOOD}))
    assert texts(ended(composing, f"See {GOOD} or {BAD}.")) == [f"See {GOOD} or `{BAD}`."]


def test_code_that_goes_on_is_opened_again() -> None:
    composing = composer(before="Look:\n```python\nprint(1)")
    assert texts(composing.render_partial("\nprint(2)", "")) == ["```python\nprint(2)\n``` ▌"]
    assert texts(ended(composing, "\nprint(2)\n```\nDone.")) == ["```python\nprint(2)\n```\nDone."]


@pytest.mark.parametrize(
    ("reason", "edited", "buttons"),
    [
        (FinishReason.STOP, False, "regenerate good bad"),
        (FinishReason.LENGTH, False, "regenerate continue good bad"),
        (FinishReason.ABORT, False, "regenerate continue good bad"),
        (FinishReason.ERROR, False, "regenerate"),
        (FinishReason.STOP, True, "rerun good bad"),
        (FinishReason.ERROR, True, "rerun"),
    ],
)
def test_the_buttons_tell_what_can_be_done_now(reason: FinishReason, edited: bool, buttons: str) -> None:
    first, *others = ended(composer(Limits(100), edited=edited), "Some words. " * 30, reason, "It failed.")
    assert " ".join(first.buttons) == buttons
    assert len(others) >= 3
    assert not any(frame.buttons for frame in others)
    assert (others[-1].finish_reason, others[-1].usage) == (reason, USAGE)


def test_what_was_not_begun_cannot_be_continued() -> None:
    (frame,) = ended(composer(), "", FinishReason.ABORT)
    assert frame.committed == "Stopped."
    assert ActionKind.CONTINUE not in frame.buttons


def test_an_address_in_our_own_words_is_no_link() -> None:
    composing = composer(note=f"I left out {BAD}.", links=frozenset({BAD}))
    assert texts(ended(composing, "Hello.")) == [f"I left out `{BAD}`.\n\nHello."]
    (frame,) = ended(composer(), "", FinishReason.ERROR, f"It broke at {BAD}.")
    assert frame.committed == f"⚠️ It broke at `{BAD}`."


def test_an_error_stands_below_the_code_that_it_interrupted() -> None:
    (frame,) = ended(composer(), "Look:\n```\nprint(", FinishReason.ERROR, "It failed.")
    assert frame.committed == "Look:\n```\nprint(\n```\n\n⚠️ It failed."
    (frame,) = ended(composer(), "", FinishReason.ERROR, "It failed.")
    assert frame.committed == "⚠️ It failed."


def test_a_very_long_answer_is_a_file_below_its_beginning() -> None:
    text = "```\n" + "A line of code.\n" * 200 + "```"
    frames = ended(composer(Limits(2000, attach_over=500)), text)
    assert len(frames) == 1
    assert frames[0].committed.startswith("```\nA line of code.")
    assert frames[0].committed.endswith(f"\n```\n\n{THE_REST}")
    assert len(frames[0].committed) < 500 + 50
    assert frames[0].attachment is not None
    assert frames[0].attachment.text == text


def test_a_very_long_answer_that_failed_says_so_and_comes_as_a_file() -> None:
    frames = ended(composer(Limits(200, attach_over=500)), "Some words. " * 100, FinishReason.ERROR, "It failed.")
    assert "\n\n".join(texts(frames)).endswith(f"{THE_REST}\n\n⚠️ It failed.")
    assert [frame.attachment is not None for frame in frames] == [False] * (len(frames) - 1) + [True]


def test_an_answer_that_quotes_our_words_is_no_file() -> None:
    (frame,) = ended(composer(Limits(2000, attach_over=500)), THE_REST)
    assert frame.attachment is None
    (frame,) = ended(composer(Limits(2000, attach_over=0)), "word " * 300)
    assert frame.attachment is None


def test_a_reply_has_the_same_short_name_after_every_restart() -> None:
    assert reply_id("request", 0) == reply_id("request", 0)
    assert len({reply_id(f"request-{number}", part) for number in range(50) for part in range(5)}) == 250
    assert len(reply_id("r" * 32, 11)) <= 25


@pytest.mark.fault(45)
def test_of_an_answer_that_comes_as_a_file_only_the_beginning_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def counting(text: str, dialect: Dialect, links: KnownLinks) -> str:
        lengths.append(len(text))
        return render(text, dialect, links)

    monkeypatch.setattr(frames, "render", counting)
    text = "Some words of it. " * 10_000
    composing = composer(Limits(2000, attach_over=500))
    (partial,), (final,) = composing.render_partial(text, ""), ended(composing, text)
    assert max(lengths) <= 2 * 500
    assert final.committed.startswith(partial.committed)
    assert final.committed.endswith(THE_REST)
    assert final.attachment is not None
    assert final.attachment.text == text


@pytest.mark.fault(46)
def test_an_answer_shows_nothing_in_another_order() -> None:
    composing = composer(note="a\u202eb")
    assert texts(composing.render_partial("c\u2066d", "")) == ["ab\n\ncd ▌"]
    assert texts(ended(composing, "c\u2066d", FinishReason.ERROR, "e\u202df.")) == ["ab\n\ncd\n\n⚠️ ef."]
