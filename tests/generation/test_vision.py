"""Tests what a model that cannot see gets of pictures, and what the people are told."""

import pytest

from bot.generation.user_messages import cannot_see
from bot.generation.vision import asked_pictures, is_only_pictures, without_pictures
from bot.types.messages import FinishReason, IncomingMessage, Picture, Prompt, Role, Turn
from tests.support.builders.service import ServiceSetup
from tests.support.fakes.team import Team, person

pytest_plugins = ["tests.support.fixtures.service"]

CAT, DOG = (Picture(f"{name}.png", "image/png", b"pixels", 2, 2) for name in ("cat", "dog"))


def prompt(*turns: tuple[Role, str, tuple[Picture, ...]]) -> Prompt:
    return Prompt("", tuple(Turn(role, "", text, "", 0.0, pictures) for role, text, pictures in turns))


def test_the_pictures_of_a_question_are_those_since_the_last_answer() -> None:
    turns = ((Role.USER, "look", (CAT,)), (Role.USER, "[picture dog.png]\n\nwhat is it?", (DOG,)))
    assert asked_pictures(prompt(*turns)) == [CAT, DOG]
    assert asked_pictures(prompt(turns[0], (Role.ASSISTANT, "A cat.", ()), turns[1])) == [DOG]
    assert not any(turn.pictures for turn in without_pictures(prompt(*turns)).turns)


def test_a_question_may_have_no_text_besides_its_pictures() -> None:
    assert is_only_pictures(prompt((Role.USER, "[picture cat.png]", (CAT,))))
    assert not is_only_pictures(prompt((Role.USER, "what?\n\n[picture cat.png]", (CAT,))))
    assert not is_only_pictures(prompt((Role.USER, "[picture cat.png]", ())))


def test_the_sentence_names_the_pictures_and_a_model_that_sees() -> None:
    assert cannot_see(["a.png"], "") == "I cannot see images, so I left out `a.png`."
    assert cannot_see(["a.png", "b.png"], "qwen3-vl") == (
        "I cannot see images, so I left out `a.png`, `b.png`; `qwen3-vl` here can see them."
    )


@pytest.mark.parametrize(("text", "reason"), [("what is it?", FinishReason.STOP), ("", FinishReason.ERROR)])
async def test_a_model_that_cannot_see_says_so(
    setup: ServiceSetup, team: Team, text: str, reason: FinishReason
) -> None:
    core = setup.adapter.core
    assert core is not None
    question = "\n\n".join(filter(None, [text, "[picture cat.png]"]))
    team.asked[question] = "1"
    await core.handle(IncomingMessage(team.key, "1", person("ana"), text, 1.0, True, pictures=(CAT,)))
    answer = await team.reply_to(question)
    assert answer.reason is reason
    assert "I cannot see images, so I left out `cat.png`." in answer.text
    assert answer.text.endswith(f"You said: {question}") is (reason is FinishReason.STOP)
    assert not any(turn.pictures for _, asked in setup.engine.asked for turn in asked.prompt.turns)
