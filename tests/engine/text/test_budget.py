"""Tests long conversations: dropped turns, a fitting rest, and a stable start of the history."""

import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.engine.text import encoding
from bot.engine.text.prompts import PromptBuilder
from bot.engine.text.turns import KEPT_SHARE, first_kept
from bot.types.errors import RequestFailed
from bot.types.messages import Prompt, Turn
from tests.support.builders.prompt_tokenizers import CHATML, ask, bot, byte_level, mistral, user


def talk(pairs: int, words: int = 8) -> list[Turn]:
    """`pairs` answered questions and an open one."""
    turns = []
    for number in range(pairs):
        turns += [user(f"Question {number} " + "word " * words), bot(f"Answer {number} " + "yes " * words)]
    return [*turns, user(f"Question {pairs} " + "word " * words)]


def test_a_short_conversation_is_kept_whole() -> None:
    built = PromptBuilder(byte_level(CHATML), "", 4096).build(ask(*talk(3)), 100)
    assert (built.dropped_turns, built.window) == (0, 4096)


@pytest.mark.fault(33)
def test_the_oldest_turns_go_first_and_the_system_prompt_stays() -> None:
    tokenizer = byte_level(CHATML)
    built = PromptBuilder(tokenizer, "", 600).build(ask(*talk(40), system="Be brief."), 100)
    shown = str(tokenizer.decode(built.ids))
    assert len(built.ids) <= 500
    assert built.dropped_turns > 0
    assert built.dropped_turns % 2 == 0
    first = built.dropped_turns // 2
    assert shown.startswith(f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQuestion {first} ")
    assert f"Question {first - 1} " not in shown
    assert "Question 40 " in shown
    assert len(built.ids) > 500 * KEPT_SHARE / 2, "no more goes than has to"


def test_a_system_prompt_without_a_role_stays_too() -> None:
    built = PromptBuilder(mistral(), "", 400).build(ask(*talk(40), system="Be brief."), 100)
    assert built.dropped_turns > 0
    assert str(mistral().decode(built.ids)).startswith("<s>[INST] Be brief.\n\nQuestion ")


def test_the_beginning_stays_while_a_long_conversation_grows() -> None:
    builder = PromptBuilder(byte_level(CHATML), "", 1200)
    turns = talk(60)
    history = [builder.build(ask(*turns[:end], system="Be brief."), 200) for end in range(1, len(turns) + 1, 2)]
    warm = [after.ids[: len(before.ids)] == before.ids for before, after in pairwise(history)]
    cuts = [at for at, same in enumerate(warm) if not same]
    assert len(cuts) > 2
    assert all(after - before > 2 for before, after in pairwise(cuts)), "never twice in a row"
    for at in cuts:
        assert len(history[at + 1].ids) <= 1000 * KEPT_SHARE
    assert all(len(built.ids) <= 1000 for built in history)


def test_a_continued_answer_has_the_prompt_that_it_began_with() -> None:
    builder = PromptBuilder(byte_level(CHATML), "", 600)
    turns = talk(30)
    asked = builder.build(ask(*turns), 100).ids
    continued = builder.build(ask(*turns, prefix="So far"), 100).ids
    assert continued[: len(asked)] == asked


def test_a_long_beginning_of_an_answer_makes_room_for_itself() -> None:
    built = PromptBuilder(byte_level(CHATML), "", 600).build(ask(*talk(7), prefix="so far " * 35), 100)
    assert built.dropped_turns > 0
    assert len(built.ids) <= 500 * KEPT_SHARE


def test_an_answer_before_the_first_question_is_not_counted_as_dropped() -> None:
    assert PromptBuilder(byte_level(CHATML), "", 600).build(ask(bot("Welcome."), *talk(1)), 100).dropped_turns == 0


def test_many_people_in_one_turn_are_trimmed_one_by_one() -> None:
    turns = [user(f"Message {number} " + "word " * 8, f"P{number % 3}") for number in range(50)]
    tokenizer = byte_level(CHATML)
    built = PromptBuilder(tokenizer, "", 600).build(ask(*turns), 100)
    assert 0 < built.dropped_turns < 50
    assert len(built.ids) <= 500
    assert f"<|im_start|>user\nP{built.dropped_turns % 3}: Message {built.dropped_turns} " in str(
        tokenizer.decode(built.ids)
    )


@pytest.mark.parametrize(
    "prompt",
    [
        ask(user("word " * 600)),
        ask(*talk(3), user("word " * 600)),
        ask(user("Hi"), system="word " * 600),
        ask(user("Hi"), prefix="word " * 600),
    ],
    ids=["question", "question after others", "system prompt", "answer so far"],
)
def test_what_cannot_fit_is_refused_with_the_figures(prompt: Prompt) -> None:
    with pytest.raises(RequestFailed, match=r"take [\d,]+ tokens, and there is room for 500 .*600.*100.*max_tokens"):
        PromptBuilder(byte_level(CHATML), "", 600).build(prompt, 100)


def test_an_answer_as_long_as_the_window_leaves_no_room() -> None:
    with pytest.raises(RequestFailed, match="room for 0"):
        PromptBuilder(byte_level(CHATML), "", 600).build(ask(user("Hi")), 700)


def test_the_last_token_of_the_window_is_used() -> None:
    tokenizer = byte_level(CHATML)
    length = len(PromptBuilder(tokenizer, "", 600).build(ask(user("word " * 50)), 100).ids)
    built = PromptBuilder(tokenizer, "", length + 100).build(ask(*talk(20), user("word " * 50)), 100)
    assert len(built.ids) <= length
    with pytest.raises(RequestFailed):
        PromptBuilder(tokenizer, "", length + 99).build(ask(user("word " * 50)), 100)


COSTS = st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=120)


@given(COSTS, st.integers(0, 60))
def test_a_cut_stays_until_the_budget_is_spent_again(turns: Sequence[tuple[int, bool]], fixed: int) -> None:
    costs, user_turns = [cost for cost, _ in turns], [True, *(is_user for _, is_user in turns[1:])]
    budget = 200
    before = 0
    for end in range(1, len(costs) + 1):
        start = first_kept(costs[:end], user_turns[:end], fixed, budget)
        question = max(at for at in range(end) if user_turns[at])
        kept = fixed + sum(costs[start:end])
        assert user_turns[start]
        assert kept <= budget or start == question
        if start != before:
            assert start > before, "what was dropped does not come back"
            assert fixed + sum(costs[before:end]) > budget, "nothing is dropped while all of it fits"
            assert kept <= budget * KEPT_SHARE or start == question, "and then room is made for the next turns"
        before = start


def test_what_is_remembered_of_long_histories_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CACHE_BYTES", 1 << 20)
    encoder = encoding.SafeEncoder(byte_level(CHATML))
    tracemalloc.start()
    try:
        for number in range(1000):
            encoder.count(f"{number} " + "word " * 300)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.7 * (1 << 20) < taken < 1.3 * (1 << 20)
    assert encoder.cache_bytes == pytest.approx(taken, rel=0.25)


def test_what_is_asked_for_again_and_again_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CACHE_BYTES", 1 << 16)
    tokenizer, encoded = byte_level(CHATML), list[str]()
    encode = tokenizer.encode

    def recorded(text: str, **how: Any) -> list[int]:
        encoded.append(text)
        found: list[int] = encode(text, **how)
        return found

    monkeypatch.setattr(tokenizer, "encode", recorded)
    encoder = encoding.SafeEncoder(tokenizer)
    for number in range(200):
        assert encoder.count("the beginning") == encoder.count("the beginning")
        encoder.count(f"{number} " + "word " * 100)
    assert encoded.count("the beginning") == 1
    assert len(encoded) == 201
