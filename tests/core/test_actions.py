"""Tests commands and buttons: their effects, permissions, repetition, and refusals."""

from collections.abc import Sequence

import pytest

from bot.types.commands import COMMANDS
from bot.types.engine import Capabilities
from bot.types.errors import TOO_LONG
from bot.types.messages import Accepted, ActionKind, Choice, FinishReason, Notice, Outcome, Refused
from tests.support.builders.service import ServiceSetup
from tests.support.builders.storage_rows import rows
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.service"]


def choices(setup: ServiceSetup, command: str, typed: str) -> Sequence[Choice]:
    """The completions for what a user has typed."""
    assert setup.adapter.core is not None
    return setup.adapter.core.choices(command, typed)


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
async def test_every_command_answers_in_a_conversation_where_nothing_was_said(team: Team, command: str) -> None:
    outcome = await team.command(command)
    assert isinstance(outcome, Notice | Refused)
    assert outcome.text


async def test_ask_is_acknowledged_and_answered_like_a_message(setup: ServiceSetup, team: Team) -> None:
    assert isinstance(await team.command("ask", "What is this?", who="ana"), Accepted)
    answer = await team.reply_to("What is this?")
    assert answer.text == "`Ana` asks: `What is this?`\n\nYou said: What is this?"
    assert answer.first.reply.asker.name == "Ana"
    await team.asks("ben", "And that?")
    assert len(setup.engine.prompt_of("And that?").prompt.turns) == 3


async def test_an_unknown_command_is_answered_with_the_nearest(team: Team) -> None:
    assert await team.refused("temprature") == "There is no command `temprature`; did you mean temperature?"


async def test_help_names_the_commands_as_they_are_typed_here(team: Team) -> None:
    assert "`!ask prompt`" in await team.told("help", who="ana")


@pytest.mark.parametrize(("name", "typed"), [("temperature", "0.2"), ("top_p", "0.5"), ("max_tokens", "77")])
async def test_a_number_is_set_shown_and_used(setup: ServiceSetup, team: Team, name: str, typed: str) -> None:
    assert await team.told(name, typed, who="boss") == f"{name} is now {typed} here."
    assert await team.told(name, who="ana") == f"{name} is {typed} here."
    await team.asks("ana", "hello")
    assert getattr(setup.engine.prompt_of("hello").params, name) == float(typed)
    assert f"- {name}: {typed} (set here)" in await team.told("settings", who="ana")


async def test_how_much_a_model_thinks_is_set_shown_and_used(setup: ServiceSetup, team: Team) -> None:
    setup.engine.capabilities["large"] = Capabilities(reasoning=True, efforts=("off", "low", "high"))
    await team.command("model", "large")
    await team.asks("ana", "hello")
    assert setup.engine.prompt_of("hello").params.think == ""
    assert setup.engine.prompt_of("hello").params.think_tokens == 0, "it can be switched on, and is not"
    assert "channel managers" in await team.refused("think", "high", who="ana")
    assert await team.told("think", "HIGH", who="boss") == "think is now high here."
    assert await team.told("think", who="ana") == "think is high here."
    await team.asks("ana", "and now?")
    params = setup.engine.prompt_of("and now?").params
    assert (params.think, params.think_tokens) == ("high", 512), "half of the window, less max_tokens"
    assert "- think: high (set here)" in await team.told("settings", who="ana")
    assert "think must be off, low or high" in await team.refused("think", "hard", who="boss")


@pytest.mark.parametrize(
    ("capabilities", "typed", "sentence"),
    [
        (Capabilities(reasoning=False, efforts=()), "high", "large does not think before it answers"),
        (Capabilities(reasoning=True, efforts=()), "off", "large always thinks"),
        (Capabilities(reasoning=True, efforts=("low", "high")), "off", "choose low or high"),
    ],
)
async def test_a_model_that_knows_no_such_thinking_refuses_it(
    setup: ServiceSetup, team: Team, capabilities: Capabilities, typed: str, sentence: str
) -> None:
    setup.engine.capabilities["large"] = capabilities
    await team.command("model", "large")
    assert "if the model knows it" in await team.told("think", typed, who="boss"), "it was never loaded"
    await team.asks("ana", "hello")
    assert sentence in await team.refused("think", typed, who="boss")


async def test_a_wrong_value_gets_the_range_and_changes_nothing(team: Team) -> None:
    assert "between 0 and 2" in await team.refused("temperature", "3")
    assert "must be a whole number between 1 and 8192" in await team.refused("max_tokens", "many")
    assert await team.told("temperature") == "temperature is 0.7 here."


async def test_who_may_not_is_told_who_may(team: Team) -> None:
    assert "channel managers" in await team.refused("temperature", "0.2", who="ana")
    assert "channel managers" in await team.refused("system", "Be rude.", who="ana")
    assert "admins" in await team.refused("model", "large", who="boss")
    assert await team.told("temperature", who="ana") == "temperature is 0.7 here."


async def test_the_instructions_are_set_shown_used_and_cleared(setup: ServiceSetup, team: Team) -> None:
    assert "changed" in await team.told("system", "Be terse.", who="boss")
    assert (await team.told("system", who="ana")).endswith("Be terse.")
    await team.asks("ana", "hello")
    assert setup.engine.prompt_of("hello").prompt.system == "Be terse."
    assert "default" in await team.told("system", "CLEAR", who="boss")
    await team.asks("ana", "again")
    assert setup.engine.prompt_of("again").prompt.system != "Be terse."


async def test_settings_of_a_channel_hold_in_its_threads_until_they_set_their_own(team: Team) -> None:
    thread, other = team.elsewhere(thread="thread"), team.elsewhere(channel="other")
    await team.command("temperature", "0.1")
    await thread.command("top_p", "0.5")
    told = await thread.told("settings")
    assert "- temperature: 0.1 (set for the channel)" in told
    assert "- top_p: 0.5 (set here)" in told
    assert "- max_tokens: 512 (default)" in told
    assert await other.told("temperature") == "temperature is 0.7 here."
    assert "- top_p: 0.95 (default)" in await team.told("settings")


async def test_the_models_are_shown_with_what_the_machine_says_to_them(setup: ServiceSetup, team: Team) -> None:
    await team.asks("ana", "hello")
    await setup.platform.until(lambda: bool(choices(setup, "model", "huge")[0].label != "huge"), "it was looked at")
    told = await team.told("model", who="ana")
    assert told.startswith("small answers here. Available models:")
    assert "- huge · won't fit" in told
    assert "- small · fits" in told
    assert [choice.value for choice in choices(setup, "model", "LA")] == ["large"]
    assert choices(setup, "temperature", "") == ()


async def test_a_model_that_cannot_be_had_is_refused_politely(setup: ServiceSetup, team: Team) -> None:
    await team.asks("ana", "hello")
    await setup.platform.until(lambda: bool(choices(setup, "model", "huge")[0].label != "huge"), "it was looked at")
    assert "won't fit here: huge needs about" in await team.refused("model", "huge")
    assert "There is no model called `smal`; did you mean small?" in await team.refused("model", "smal")
    (setup.settings.state_dir.parent / "models" / "large" / "model.safetensors").unlink()
    assert "run `inhouse pull large`" in await team.refused("model", "large")
    assert (await team.told("model")).startswith("small answers here")


async def test_another_model_answers_here_and_only_here(setup: ServiceSetup, team: Team) -> None:
    other = team.elsewhere(channel="other")
    assert (await team.told("model", "large")).startswith("large answers here now.")
    await team.asks("ana", "hello")
    await other.asks("ben", "hello there")
    assert [model for model, _ in setup.engine.asked] == ["large", "small"]


async def test_regenerate_gives_another_answer_which_is_the_one_that_is_remembered(
    setup: ServiceSetup, team: Team
) -> None:
    setup.engine.answers("hello", "Go away.")
    setup.engine.answers("hello", "Good morning!")
    await team.asks("ana", "hello")
    assert isinstance(await team.command("regenerate", who="ana"), Accepted)
    assert (await team.reply_to("hello", 2)).text == "Good morning!"
    await team.asks("ana", "and now?")
    read = [turn.text for turn in setup.engine.prompt_of("and now?").prompt.turns]
    assert read == ["hello", "Good morning!", "and now?"]


async def test_continue_goes_on_with_the_answer_and_both_are_remembered_as_one(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("count", "one two three four")
    setup.engine.answers("count", " three four")
    await team.command("max_tokens", "2")
    answer = await team.asks("ana", "count")
    assert (answer.text, answer.reason) == ("one two", FinishReason.LENGTH)
    await team.command("max_tokens", "100")
    assert isinstance(await team.presses(answer.first, ActionKind.CONTINUE), Accepted)
    more = await team.reply_to("count", 2)
    assert more.text == "three four"
    assert setup.engine.prompt_of("count").prompt.prefix == "one two"
    await team.asks("ana", "and now?")
    assert setup.engine.prompt_of("and now?").prompt.turns[1].text == "one two three four"


async def test_nothing_can_be_done_with_an_answer_that_is_still_written(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("hello/1")
    await team.says("ana", "hello")
    message = await team.sees("hello", "You")
    for command in ("regenerate", "continue"):
        assert "still being written" in await team.refused(command, who="ana")
    outcome = await team.presses(message, ActionKind.REGENERATE)
    assert isinstance(outcome, Refused)
    assert "still being written" in outcome.text


async def test_a_question_that_is_gone_cannot_be_answered_again(setup: ServiceSetup, team: Team) -> None:
    answer = await team.asks("ana", "hello")
    await team.deletes("hello")
    assert "No question has been asked" in await team.refused("regenerate", who="ana")
    outcome = await team.presses(answer.first, ActionKind.CONTINUE)
    assert isinstance(outcome, Refused)


@pytest.mark.parametrize("by_button", [True, False])
async def test_a_question_that_is_too_long_is_tried_again_only_after_a_change(
    setup: ServiceSetup, team: Team, by_button: bool
) -> None:
    too_long = f"{TOO_LONG} 3,000 tokens, and there is room for 1,536: shorten them or lower max_tokens."
    for _ in range(5):
        setup.engine.answers("long", "never", fails_at=0, failure=too_long)
    answer = await team.asks("ana", "long")
    assert answer.text == f"⚠️ {too_long}"

    async def again(number: int) -> Outcome:
        if by_button:
            outcome = await team.presses(answer.first, ActionKind.REGENERATE)
        else:
            outcome = await team.command("regenerate", who="ana")
        if isinstance(outcome, Accepted):
            await team.reply_to("long", number)
        return outcome

    assert await again(0) == Refused(f"Nothing has changed since it failed: {too_long}")
    for number, (name, value) in enumerate((("max_tokens", "9"), ("system", "Be brief."), ("model", "large")), 2):
        await team.command(name, value)
        assert isinstance(await again(number), Accepted)
        assert isinstance(await again(0), Refused)
    await team.edits("long", "a short one")
    assert isinstance(await again(0), Accepted)


async def test_an_answer_that_was_stopped_before_it_began_cannot_be_rated(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("hello/0")
    await team.says("ana", "hello")
    await setup.platform.gates.reached("hello/0")
    await team.command("stop", who="ana")
    answer = await team.reply_to("hello")
    assert (answer.text, answer.first.buttons) == ("Stopped.", (ActionKind.REGENERATE,))


async def test_stop_ends_one_s_own_answers_and_a_manager_s_ends_all(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("first/1")
    await team.says("ana", "first")
    await team.sees("first", "You")
    await team.says("ben", "second")
    assert await team.refused("stop", who="cleo") == "You have no answer in progress here."
    assert await team.told("stop", who="ben") == "Stopped."
    assert (await team.reply_to("second")).text == "Stopped."
    assert await team.told("stop", who="boss") == "Stopped."
    assert (await team.reply_to("first")).text == "You"
    assert await team.refused("stop", who="boss") == "You have no answer in progress here."


async def test_the_stop_button_is_for_the_asker_and_for_managers(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("hello/1")
    await team.says("ana", "hello")
    message = await team.sees("hello", "You")
    outcome = await team.presses(message, ActionKind.STOP, who="ben")
    assert outcome == Refused("Only `Ana` and channel managers can do that here.")
    assert await team.presses(message, ActionKind.STOP, who="ana") == Notice("Stopped.")
    await team.reply_to("hello")
    assert await team.presses(message, ActionKind.STOP, who="boss") == Refused("That answer is already finished.")


async def test_an_opinion_is_noted_once_a_person_and_the_newest_counts(setup: ServiceSetup, team: Team) -> None:
    answer = await team.asks("ana", "hello")
    await team.presses(answer.first, ActionKind.GOOD)
    assert await team.presses(answer.first, ActionKind.BAD) == Notice("Thank you, noted.")
    assert rows(setup.settings.state_dir, "SELECT actor_id, good FROM ratings") == [("id-ana", 0)]


async def test_a_button_under_a_message_that_is_not_known_is_refused(setup: ServiceSetup, team: Team) -> None:
    answer = await team.asks("ana", "hello")
    answer.first.reply = answer.first.reply.__class__(
        "unknown", "", team.key, 0, "", answer.first.reply.asker, committed=""
    )
    assert await team.presses(answer.first, ActionKind.STOP) == Refused("This answer is no longer stored.")
