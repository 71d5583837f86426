"""Tests which pictures of a conversation stay in a prompt: the oldest ones go first, those of the question last."""

from hypothesis import given
from hypothesis import strategies as st

from bot.engine.text.turns import fit_pictures, merged_pictures, merged_texts
from bot.types.messages import Picture, Role, Turn

A, B, C, D = (Picture(name, "image/png", b"", 1, 1) for name in "abcd")


def turns(*pictures: tuple[Picture, ...]) -> list[Turn]:
    """Turns of a user and the assistant that alternate, with these pictures."""
    return [
        Turn(Role.USER if number % 2 == 0 else Role.ASSISTANT, "", "text", str(number), 0.0, shown)
        for number, shown in enumerate(pictures)
    ]


def kept(conversation: list[Turn], budget: int, cost: int = 100) -> tuple[str, int]:
    """Names of the pictures that stay, and the number of the others. Each turn's text costs 10."""
    found, costs, dropped = fit_pictures(conversation, [10] * len(conversation), 0, budget, lambda _: cost)
    assert costs == [10 + cost * len(turn.pictures) for turn in found]
    assert [turn.text for turn in found] == [turn.text for turn in conversation]
    return "".join(picture.name for turn in found for picture in turn.pictures), dropped


def test_the_oldest_pictures_go_first() -> None:
    conversation = turns((A, B), (), (C,), (), (D,))
    assert kept(conversation, 450) == ("abcd", 0)
    assert kept(conversation, 449) == ("cd", 2)
    assert kept(conversation, 399) == ("d", 3)


def test_the_pictures_of_the_question_stay_at_the_cost_of_the_history() -> None:
    conversation = turns((A,), (), (B, C, D))
    assert kept(conversation, 310) == ("bcd", 1)
    assert kept(conversation, 309) == ("cd", 2)
    assert kept(conversation, 50) == ("", 4)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 3000))
def test_what_stays_is_the_newest_part(counts: list[int], budget: int) -> None:
    names = iter("abcdefghijklmnopqrstuvwxyz1234567890")
    made = [tuple(Picture(next(names), "image/png", b"", 1, 1) for _ in range(count)) for count in counts]
    conversation = turns(*made)
    everything = "".join(picture.name for shown in made for picture in shown)
    found, dropped = kept(conversation, budget)
    assert found == everything[dropped:]
    if len(everything) * 100 + len(counts) * 10 <= budget:
        assert dropped == 0


def test_merged_turns_show_their_pictures_together() -> None:
    same = [Turn(Role.USER, "", "text", str(number), 0.0, shown) for number, shown in enumerate([(A,), (B, C)])]
    conversation = [*same, *turns((D,))[:1], Turn(Role.ASSISTANT, "", "yes", "9", 0.0)]
    assert merged_pictures(conversation) == [(A, B, C, D), ()]
    assert len(merged_texts(conversation)) == 2
