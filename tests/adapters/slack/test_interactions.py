"""Tests commands, buttons and menus on Slack with the whole service."""

from pathlib import Path

from tests.support.builders.slack_service import SlackServiceSetup, run_slack_service
from tests.support.builders.storage_rows import rows
from tests.support.fakes.slack_server import FakeSlack, Interaction, Message

pytest_plugins = ("tests.support.fixtures.slack",)


async def told(setup: SlackServiceSetup, use: Interaction) -> str:
    """The ephemeral message to the user of an interaction."""
    await setup.server.until(lambda: use.messages)
    assert use.acked
    return use.messages[-1].shown


async def finished(setup: SlackServiceSetup, number: int = 1) -> list[Message]:
    """Waits until the channel has `number` finished answers."""

    def answers() -> list[Message]:
        return [each for each in setup.general.messages if {"Regenerate", "Continue"} & set(each.labels)]

    await setup.server.until(lambda: len(answers()) >= number)
    return answers()


async def test_a_question_by_command_is_answered_publicly_in_the_channel(
    tmp_path: Path, slack_server: FakeSlack
) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        assert await told(setup, await setup.ana.commands(setup.general, "ask why?")) == "It comes as a message here."
        (answer,) = await finished(setup)
        assert answer.thread_ts == ""
        assert answer.shown == "`ana` asks: `why?`\n\nYou said: why?"
        await setup.ana.commands(setup.general, "regenerate")
        assert len(await finished(setup, 2)) == 2
        assert not slack_server.pings


async def test_a_thread_and_its_channel_are_two_conversations(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.answer_to(question)
        use = await setup.ana.commands(setup.general, "undo")
        assert "no question of yours to undo.\n\nA thread is a conversation of its own" in await told(setup, use)
        await setup.ana.says(setup.general, "!undo", thread=question)
        await slack_server.until(lambda: any("Removed" in each.shown for each in setup.general.ephemerals))


async def test_what_a_button_makes_of_an_answer_comes_in_its_thread(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.answer_to(question)
        (answer,) = setup.answers_to(question)
        refused = await setup.ben.presses(answer, "Regenerate")
        assert await told(setup, refused) == "Only `ana` and channel managers can do that here."
        await setup.ana.presses(answer, "Regenerate")
        await slack_server.until(lambda: len(setup.answers_to(question)) == 2)
        assert await told(setup, await setup.ana.presses(answer, "Good answer")) == "Thank you, noted."


async def test_the_menu_of_a_message_has_it_answered_once_and_forgotten(
    tmp_path: Path, slack_server: FakeSlack
) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        said = await setup.ben.says(setup.general, "why is the sky blue?")
        assert await told(setup, await setup.ana.picks(said, "answer_this")) == "It comes as a message here."
        assert await setup.answer_to(said) == "You said: why is the sky blue?"
        assert "answered that already" in await told(setup, await setup.ana.picks(said, "answer_this"))
        (answer,) = setup.answers_to(said)
        posted = f"SELECT 1 FROM outbox WHERE platform_id = '{answer.ts}'"
        await slack_server.until(lambda: rows(tmp_path / "state", posted) != [])
        assert "Only its author" in await told(setup, await setup.ana.picks(answer, "forget_this"))
        assert "is deleted" in await told(setup, await setup.ben.picks(answer, "forget_this"))
        await setup.ana.says(setup.general, "!export", thread=said)
        await slack_server.until(lambda: any("No messages of this" in each.shown for each in setup.general.ephemerals))


async def test_the_stop_command_ends_what_its_user_has_running_in_the_threads_of_the_channel(
    tmp_path: Path, slack_server: FakeSlack
) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        for word in ("ana", "ben"):
            setup.engine.answers(word, "one two three")
            setup.gates.hold(f"{word}/2")
        hers = await setup.ana.says(setup.general, "ana", mention=True)
        his = await setup.ben.says(setup.general, "ben", mention=True)
        for word in ("ana", "ben"):
            await setup.gates.reached(f"{word}/2")
        assert await told(setup, await setup.ana.commands(setup.general, "stop")) == "Stopped."
        assert await setup.answer_to(hers) == "one two"
        assert not setup.answers_to(his)
        await setup.gates.open("ben/2")
        assert await setup.answer_to(his) == "one two three"
        refused = await told(setup, await setup.ana.commands(setup.general, "stop"))
        assert refused == "You have no answer in progress here."


async def test_a_model_of_the_menu_holds_for_the_channel(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        boss = slack_server.user("boss", admin=True)
        use = await boss.commands(setup.general, "help all")
        assert "Settings in use here" in await told(setup, use)
        (menu,) = use.messages[0].buttons
        value = menu["options"][0]["value"]
        refused = await setup.ana.commands(setup.general)
        await told(setup, refused)
        assert "Only admins can change the model" in await told(
            setup, await setup.ana.chooses(refused.messages[0], value)
        )
        assert f"{value} answers here now." in await told(setup, await boss.chooses(use.messages[0], value))
        shown = await told(setup, await boss.commands(setup.general, "settings"))
        assert f"model: {value} (set here)" in shown
