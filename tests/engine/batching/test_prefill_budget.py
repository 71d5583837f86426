"""Tests that a prefill chunk lasts at most five decode steps at any cost per token."""

import pytest

from bot.engine.batching.prefill_budget import PrefillBudget

DECODE_S = 0.06


def settle(prefill_budget: PrefillBudget, fixed_s: float, token_s: float) -> float:
    """Runs many chunks at a given cost; the longest of the later ones, in decode steps."""
    prefill_budget.learn(0, 4, DECODE_S)
    longest = 0.0
    for number in range(60):
        took = fixed_s + token_s * prefill_budget.chunk(1)
        prefill_budget.learn(prefill_budget.chunk(1), 1, took)
        if number >= 20:
            longest = max(longest, took / DECODE_S)
    return longest


@pytest.mark.parametrize(("fixed_s", "token_s"), [(0.06, 0.001), (0.15, 0.0025), (0.06, 0.01), (0.2, 0.0005)])
def test_chunks_settle_where_they_last_at_most_five_steps(fixed_s: float, token_s: float) -> None:
    prefill_budget = PrefillBudget(first=128, largest=512)
    longest = settle(prefill_budget, fixed_s, token_s)
    assert longest <= 5
    assert longest >= 2 or prefill_budget.chunk(1) == 512, "there was time for more"


def test_a_machine_that_gets_slower_gets_smaller_chunks_and_larger_ones_again() -> None:
    prefill_budget = PrefillBudget(first=128, largest=512)
    settle(prefill_budget, 0.06, 0.0005)
    fast = prefill_budget.chunk(1)
    settle(prefill_budget, 0.06, 0.005)
    assert prefill_budget.chunk(1) < fast / 4
    settle(prefill_budget, 0.06, 0.0005)
    assert prefill_budget.chunk(1) >= 0.8 * fast


def test_before_a_step_was_measured_the_first_size_holds() -> None:
    prefill_budget = PrefillBudget(first=128, largest=512)
    prefill_budget.learn(127, 1, 100.0)
    assert prefill_budget.chunk(1) == 128


def test_prompts_that_are_read_alone_teach_what_a_chunk_takes_beside_an_answer() -> None:
    prefill_budget = PrefillBudget(first=32, largest=512)
    prefill_budget.learn(0, 4, DECODE_S)
    for _ in range(20):
        prefill_budget.learn(prefill_budget.chunk(0), 0, 0.01 * prefill_budget.chunk(0))
    assert 8 <= prefill_budget.chunk(1) <= 16, "a decode step and so many tokens last three steps"
    for _ in range(40):
        prefill_budget.learn(prefill_budget.chunk(0), 0, 0.001 * prefill_budget.chunk(0))
    assert 90 <= prefill_budget.chunk(1) <= 140
    known = prefill_budget.chunk(1)
    prefill_budget.learn(8, 0, 10.0)
    assert prefill_budget.chunk(1) == known, "the rest of a prompt says nothing about a chunk"


def test_what_a_step_takes_with_many_answers_is_learned_while_prompts_are_read() -> None:
    """It learned 20 ms from one answer; then sixteen run, at 80 ms per step, and prompts keep arriving."""
    prefill_budget = PrefillBudget(first=64, largest=512)
    prefill_budget.learn(0, 1, 0.02)
    for _ in range(60):
        read = prefill_budget.chunk(16)
        prefill_budget.learn(read, 16, 0.08 + 0.001 * read)
    assert prefill_budget.chunk(16) >= 40


def test_many_who_ask_at_once_get_no_small_chunks_because_so_many_answers_are_new_to_it() -> None:
    """Only single answers are known; then sixteen prompts arrive, and each one that is read adds an answer."""
    prefill_budget = PrefillBudget(first=32, largest=512)
    prefill_budget.learn(0, 1, 0.03)
    prefill_budget.learn(128, 0, 0.19)
    for answers in range(1, 17):
        read = prefill_budget.chunk(answers)
        prefill_budget.learn(read, answers, 0.03 + 0.0035 * (answers - 1) + 0.0014 * read)
        assert read >= 32
        assert 0.03 + 0.0035 * (answers - 1) + 0.0014 * read <= 5 * (0.03 + 0.0035 * (answers - 1))


def test_tokens_that_grow_dearer_beside_a_number_of_answers_that_is_new_make_smaller_chunks() -> None:
    prefill_budget = PrefillBudget(first=32, largest=512)
    prefill_budget.learn(0, 1, 0.03)
    prefill_budget.learn(128, 0, 0.19)
    for _ in range(10):
        read = prefill_budget.chunk(2)
        prefill_budget.learn(read, 2, 0.032 + 0.012 * read)
    assert prefill_budget.chunk(2) == 8


def test_chunks_are_larger_beside_more_answers_whose_steps_take_longer() -> None:
    prefill_budget = PrefillBudget(first=32, largest=512)
    for answers, took in ((1, 0.03), (8, 0.05), (16, 0.08)):
        prefill_budget.learn(0, answers, took)
    prefill_budget.learn(40, 1, 0.03 + 0.0014 * 40)
    assert [prefill_budget.chunk(answers) for answers in (1, 4, 8, 15, 16)] == [40, 40, 64, 64, 112]
    assert prefill_budget.chunk(0) == 160


def decode_s(answers: int) -> float:
    return 0.03 + 0.0035 * (answers - 1)


def learned(*counts: int) -> PrefillBudget:
    """A Pace that has learned from many steps with these numbers of answers, and from a prompt."""
    prefill_budget = PrefillBudget(first=32, largest=512)
    for answers in counts * 20:
        prefill_budget.learn(0, answers, decode_s(answers))
    for _ in range(10):
        prefill_budget.learn(prefill_budget.chunk(0), 0, 0.0014 * prefill_budget.chunk(0))
    return prefill_budget


def steps(prefill_budget: PrefillBudget, answers: int, token_s: float = 0.0014) -> float:
    """The duration of the next step with a chunk, in decode steps."""
    return (decode_s(answers) + token_s * prefill_budget.chunk(answers)) / decode_s(answers)


@pytest.mark.parametrize("hiccup_s", [0.2, 0.5, 1.0, 10.0])
@pytest.mark.parametrize(("known", "answers"), [((1,), 1), ((1, 2), 3), ((1, 8), 8), ((1,), 16)])
def test_a_hiccup_of_a_decode_step_makes_no_long_chunks(hiccup_s: float, known: tuple[int], answers: int) -> None:
    prefill_budget = learned(*known)
    prefill_budget.learn(0, answers, hiccup_s)
    for _ in range(20):
        assert steps(prefill_budget, answers) <= 5
        prefill_budget.learn(prefill_budget.chunk(answers), answers, steps(prefill_budget, answers) * decode_s(answers))


@pytest.mark.parametrize("dearer", [2, 4, 6])
def test_tokens_that_grow_dearer_beside_many_new_answers_are_not_taken_for_the_answers_own_time(dearer: int) -> None:
    prefill_budget, seen = learned(1), []
    for _ in range(40):
        seen.append(steps(prefill_budget, 16, dearer * 0.0014))
        prefill_budget.learn(prefill_budget.chunk(16), 16, seen[-1] * decode_s(16))
    assert max(seen) <= 7
    assert max(seen[10:]) <= 5


def test_what_was_learned_on_a_busy_machine_does_not_outlive_it() -> None:
    prefill_budget = PrefillBudget(first=32, largest=512)
    for answers in range(1, 17):
        for _ in range(20):
            prefill_budget.learn(0, answers, 3 * decode_s(answers))
    for _ in range(100):
        prefill_budget.learn(0, 1, decode_s(1))
        prefill_budget.learn(0, 2, decode_s(2))
    for answers in range(1, 17):
        assert steps(prefill_budget, answers) <= 5
        prefill_budget.learn(prefill_budget.chunk(answers), answers, steps(prefill_budget, answers) * decode_s(answers))


@pytest.mark.parametrize("slower", [2, 4])
@pytest.mark.parametrize(("known", "answers"), [((1, 2), 1), ((1, 2), 8), ((1,), 16)])
def test_what_was_learned_on_a_faster_machine_makes_no_crumbs_of_chunks(
    slower: int, known: tuple[int, ...], answers: int
) -> None:
    prefill_budget = learned(*known)
    ideal = learned(*known, answers).chunk(answers)
    for _ in range(100):
        prefill_budget.learn(0, answers, slower * decode_s(answers))
        prefill_budget.learn(
            prefill_budget.chunk(answers), answers, slower * steps(prefill_budget, answers) * decode_s(answers)
        )
        prefill_budget.learn(prefill_budget.chunk(0), 0, slower * 0.0014 * prefill_budget.chunk(0))
    assert prefill_budget.chunk(answers) >= 0.8 * ideal


@pytest.mark.parametrize("first_s", [0.03, 0.1, 0.3, 1.0])
def test_a_slow_first_step_is_forgotten_by_the_end_of_the_trial(first_s: float) -> None:
    prefill_budget = PrefillBudget(first=32, largest=512)
    for took in (first_s, 0.03, 0.03):
        prefill_budget.learn(0, 1, took)
    prefill_budget.learn(32, 0, 0.03 + 0.0014 * 32)
    for _ in range(3):
        prefill_budget.learn(0, 1, 0.03)
    assert steps(prefill_budget, 1) <= 5


def test_tokens_that_cost_nothing_are_soon_unlearned_when_they_do() -> None:
    prefill_budget, seen = learned(1, 8), []
    for _ in range(60):
        prefill_budget.learn(prefill_budget.chunk(8), 8, decode_s(8))
    for _ in range(20):
        seen.append(steps(prefill_budget, 8))
        prefill_budget.learn(prefill_budget.chunk(8), 8, seen[-1] * decode_s(8))
    assert sum(each > 5 for each in seen) <= 3


def test_a_prompt_that_is_read_alone_and_met_a_busy_moment_at_most_halves_the_chunks() -> None:
    prefill_budget = learned(1)
    before = prefill_budget.chunk(1)
    prefill_budget.learn(prefill_budget.chunk(0), 0, 10.0)
    assert prefill_budget.chunk(1) >= before // 2 - 8


def test_the_rest_of_a_prompt_that_met_a_busy_moment_says_nothing_about_chunks() -> None:
    prefill_budget = PrefillBudget(first=256, largest=512)
    prefill_budget.learn(0, 1, 0.02)
    prefill_budget.learn(8, 1, 0.5)
    assert prefill_budget.chunk(1) == 256
