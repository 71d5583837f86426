"""Tests commands, buttons and menus on Slack with the whole service."""

from pathlib import Path

from tests.support.builders.slack_service import House, open_house
from tests.support.fakes.slack_server import FakeSlack, Interaction, Message

pytest_plugins = ("tests.support.fixtures.slack",)


async def told(house: House, use: Interaction) -> str:
    """The ephemeral message to the user of an interaction."""
    await house.server.until(lambda: use.messages)
    assert use.acked
    return use.messages[-1].shown


async def finished(house: House, number: int = 1) -> list[Message]:
    """Waits until the channel has `number` finished answers."""

    def answers() -> list[Message]:
        return [each for each in house.general.messages if {"Regenerate", "Continue"} & set(each.labels)]

    await house.server.until(lambda: len(answers()) >= number)
    return answers()


async def test_asking_by_the_command_is_answered_in_the_channel_for_everybody(
    tmp_path: Path, slack_server: FakeSlack
) -> None:
    async with open_house(tmp_path, slack_server) as house:
        assert await told(house, await house.ana.commands(house.general, "ask why?")) == "It comes as a message here."
        (answer,) = await finished(house)
        assert answer.thread_ts == ""
        assert answer.shown == "`ana` asks: `why?`\n\nYou said: why?"
        await house.ana.commands(house.general, "regenerate")
        assert len(await finished(house, 2)) == 2
        assert not slack_server.pings


async def test_a_thread_and_its_channel_are_two_conversations(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with open_house(tmp_path, slack_server) as house:
        question = await house.ana.says(house.general, "hello", mention=True)
        await house.answer_to(question)
        use = await house.ana.commands(house.general, "undo")
        assert "There is nothing to undo.\n\nA thread is a conversation of its own" in await told(house, use)
        await house.ana.says(house.general, "!undo", thread=question)
        await slack_server.until(lambda: any("Removed" in each.shown for each in house.general.ephemerals))


async def test_what_a_button_makes_of_an_answer_comes_in_its_thread(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with open_house(tmp_path, slack_server) as house:
        question = await house.ana.says(house.general, "hello", mention=True)
        await house.answer_to(question)
        (answer,) = house.answers_to(question)
        refused = await house.ben.presses(answer, "Regenerate")
        assert await told(house, refused) == "Only `ana` and channel managers can do that here."
        await house.ana.presses(answer, "Regenerate")
        await slack_server.until(lambda: len(house.answers_to(question)) == 2)
        assert await told(house, await house.ana.presses(answer, "Good answer")) == "Thank you, noted."


async def test_the_menu_of_a_message_has_it_answered_once_and_forgotten(
    tmp_path: Path, slack_server: FakeSlack
) -> None:
    async with open_house(tmp_path, slack_server) as house:
        said = await house.ben.says(house.general, "why is the sky blue?")
        assert await told(house, await house.ana.picks(said, "answer_this")) == "It comes as a message here."
        assert await house.answer_to(said) == "You said: why is the sky blue?"
        assert "answered that already" in await told(house, await house.ana.picks(said, "answer_this"))
        (answer,) = house.answers_to(said)
        assert "is deleted" in await told(house, await house.ben.picks(answer, "forget_this"))
        await house.ana.says(house.general, "!export", thread=said)
        await slack_server.until(lambda: any("No messages of this" in each.shown for each in house.general.ephemerals))


async def test_a_model_of_the_menu_holds_for_the_channel(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with open_house(tmp_path, slack_server) as house:
        boss = slack_server.user("boss", admin=True)
        use = await boss.commands(house.general)
        assert "Settings in use here" in await told(house, use)
        (menu,) = use.messages[0].buttons
        value = menu["options"][0]["value"]
        refused = await house.ana.commands(house.general)
        await told(house, refused)
        assert "Only admins can change the model" in await told(
            house, await house.ana.chooses(refused.messages[0], value)
        )
        assert f"{value} answers here now." in await told(house, await boss.chooses(use.messages[0], value))
        shown = await told(house, await boss.commands(house.general, "settings"))
        assert f"model: {value} (set here)" in shown
