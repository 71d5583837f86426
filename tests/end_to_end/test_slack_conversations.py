"""Tests conversations on Slack with the real service: threads, direct messages, commands, edits, files, waiting."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from bot.conversations.bot_limit import LIMIT_REACHED, MAX_IN_A_ROW
from tests.support.builders.picture_files import encoded, half_red
from tests.support.builders.slack_service import SlackServiceSetup, run_slack_service
from tests.support.fakes.gates import Gates
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.slack_server import FakeSlack, Message

pytest_plugins = ["tests.support.fixtures.slack"]


async def test_a_thread_goes_on_without_a_mention(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        story = await setup.ben.says(setup.general, "a long story")
        first = await setup.ana.says(setup.general, "sum it up", mention=True, thread=story)
        assert await setup.answer_to(first) == "You said: sum it up"
        second = await setup.ben.says(setup.general, "shorter", thread=story)
        await slack_server.until(lambda: "You said: shorter" in [each.shown for each in setup.general.messages])
        turns = [turn.text for turn in setup.engine.prompt_of("shorter").prompt.turns]
        assert turns == ["a long story", "sum it up", "You said: sum it up", "shorter"]
        assert all(each.thread_ts == story.ts for each in setup.general.messages)
        await setup.ben.says(setup.general, "and I talk to myself")
        assert len(setup.engine.questions()) == 2
        assert second.thread_ts == story.ts


async def test_a_mention_alone_in_a_thread_answers_its_last_message(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        story = await setup.ben.says(setup.general, "a story")
        await setup.ben.says(setup.general, "what is 2+2?", thread=story)
        mention = await setup.ana.says(setup.general, "", mention=True, thread=story)
        assert await setup.answer_to(mention) == "You said: what is 2+2?"
        (asked,) = [each for _, each in setup.engine.asked]
        assert [turn.text for turn in asked.prompt.turns] == ["a story", "what is 2+2?"]
        alert = await setup.ben.says(setup.general, "", extra={"attachments": [{"text": "node-7 at 99%"}]})
        mention = await setup.ana.says(setup.general, "", mention=True, thread=alert)
        assert await setup.answer_to(mention) == "You said: node-7 at 99%"


async def test_a_channels_settings_hold_in_its_threads(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        boss = slack_server.user("boss", admin=True)
        told = await boss.commands(setup.general, "temperature 0.2")
        await slack_server.until(lambda: told.messages)
        assert told.messages[0].ephemeral
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.answer_to(question)
        assert setup.engine.prompt_of("hello").params.temperature == 0.2
        await boss.says(setup.general, "!temperature 0.9", thread=question)
        await slack_server.until(lambda: len(setup.general.ephemerals) == 2)
        await setup.ben.says(setup.general, "again", thread=question)
        await slack_server.until(lambda: len(setup.answers_to(question)) == 2)
        assert setup.engine.prompt_of("again").params.temperature == 0.9


async def test_stop_is_said_in_one_word(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        setup.gates.hold("count/2")
        question = await setup.ana.says(setup.general, "count", mention=True)
        await slack_server.until(lambda: setup.general.messages)
        assert setup.general.messages[0].labels == ["Stop"]
        await setup.ana.says(setup.general, "Stop.", thread=question)
        await slack_server.until(lambda: setup.answers_to(question))
        assert "Continue" in setup.general.messages[0].labels
        assert setup.engine.questions() == ["count"]


@pytest.mark.parametrize("streams", [True, False])
async def test_each_answer_has_stop_under_the_message_that_is_being_written(
    tmp_path: Path, slack_server: FakeSlack, streams: bool
) -> None:
    slack_server.streams_enabled = streams
    async with run_slack_service(tmp_path, slack_server) as setup:
        setup.engine.answers("long", " ".join(f"word{number:06}" for number in range(500)))
        setup.gates.hold("long/480")
        question = await setup.ana.says(setup.general, "long", mention=True)
        await setup.gates.reached("long/480")
        await slack_server.until(lambda: len(setup.general.messages) == 2)
        first, second = setup.general.messages
        assert second.labels == ["Stop"]
        assert second.streaming == streams
        await setup.ana.presses(second, "Stop")
        await slack_server.until(lambda: setup.answers_to(question))
        await slack_server.until(lambda: not second.labels)
        assert "Continue" in first.labels


@pytest.mark.parametrize("streams", [True, False])
async def test_the_restart_of_the_engine_is_shown_in_the_message_and_its_status(
    tmp_path: Path, slack_server: FakeSlack, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    monkeypatch.setattr("bot.replies.replies.TYPING_S", 0.05)
    slack_server.streams_enabled = streams
    async with run_slack_service(tmp_path, slack_server) as setup:
        setup.engine.answers("count", "Once upon a time")
        setup.gates.hold("count/2")
        question = await setup.ana.says(setup.general, "count", mention=True)
        await slack_server.until(lambda: setup.general.messages)
        (message,) = setup.general.messages
        await slack_server.until(lambda: message.shown.startswith("Once"))
        await asyncio.sleep(0.2)  # the status is repeated at intervals, longer than this in use
        load = f"load {setup.engine.loaded}"
        setup.gates.hold(load)
        setup.engine.die()
        await slack_server.until(lambda: message.shown.startswith("restarting the model"))
        await slack_server.until(lambda: "restarting" in slack_server.status_of(setup.general, question.ts))
        assert message.labels == ["Stop"]
        await setup.gates.open(load)
        await setup.gates.open("count/2")
        assert await setup.answer_to(question) == "Once upon a time"


@pytest.mark.parametrize("streams", [True, False])
async def test_stop_stays_and_works_after_a_restart_of_the_service(
    tmp_path: Path, slack_server: FakeSlack, streams: bool
) -> None:
    slack_server.streams_enabled = streams
    async with run_slack_service(tmp_path, slack_server) as setup:
        setup.engine.answers("count", "Once upon a time there was")
        setup.gates.hold("count/2")
        question = await setup.ana.says(setup.general, "count", mention=True)
        await slack_server.until(lambda: setup.general.messages)
        await setup.dies()
    async with run_slack_service(tmp_path, slack_server, earlier=setup) as again:
        again.engine.answers("count", "Now upon a time there was")
        again.gates.hold("count/3")
        await again.gates.reached("count/3")
        (message,) = again.general.messages
        await slack_server.until(lambda: message.shown.startswith("Now upon"))
        assert message.labels == ["Stop"]
        await again.ana.presses(message, "Stop")
        assert await again.answer_to(question) == "Now upon a"


async def test_two_bots_do_not_answer_each_other_for_ever(tmp_path: Path, slack_server: FakeSlack) -> None:
    other = slack_server.user("other", bot=True)
    allowed = frozenset({("slack", other.user.bot_id)})
    async with run_slack_service(tmp_path, slack_server, allow_bots=allowed) as setup:
        story = await setup.ben.says(setup.general, "a story")
        expected = [f"You said: hello {number}" for number in range(MAX_IN_A_ROW)] + [LIMIT_REACHED]
        for number, response in enumerate(expected):
            await other.says(setup.general, f"hello {number}", mention=True, thread=story)
            await slack_server.until(partial(lambda wanted: _texts_after(setup, story)[-1:] == [wanted], response))
        await other.says(setup.general, "hello again", mention=True, thread=story)
        await setup.ana.says(setup.general, "stop that", mention=True, thread=story)
        await slack_server.until(lambda: _texts_after(setup, story) == [*expected, "You said: stop that"])


def _texts_after(setup: SlackServiceSetup, question: Message) -> list[str]:
    return [each.shown for each in setup.after(question)]


async def test_direct_messages_are_one_conversation(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        dm = slack_server.dm(setup.ana)
        for text in ("one", "two"):
            assert await setup.answer_to(await setup.ana.says(dm, text)) == f"You said: {text}"
        turns = [turn.text for turn in setup.engine.prompt_of("two").prompt.turns]
        assert turns == ["one", "You said: one", "two"]
        assert all(not message.thread_ts for message in dm.messages)


async def test_a_chat_in_the_agent_view_has_prompts_a_title_and_a_history_of_its_own(
    tmp_path: Path, slack_server: FakeSlack
) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        chats = [await setup.ana.opens_assistant() for _ in range(2)]
        await slack_server.until(lambda: len(slack_server.extras.prompts) == 2)
        titles: list[str] = []
        for number, (dm, thread) in enumerate(chats):
            question = await setup.ana.says(dm, f"question {number}", thread=thread)
            assert await setup.answer_to(question) == f"You said: question {number}"
            await slack_server.until(lambda: len(slack_server.extras.titles) > len(titles))
            titles.append(slack_server.extras.titles[dm.id, thread])
        assert titles == ["question 0", "question 1"]
        assert len(setup.engine.prompt_of("question 1").prompt.turns) == 1


async def test_an_edited_question_offers_another_answer_and_a_deleted_one_takes_its_answer_along(
    tmp_path: Path, slack_server: FakeSlack
) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.answer_to(question)
        answer = setup.general.messages[0]
        await setup.ana.edits(question, f"{slack_server.bot.mention} goodbye")
        await slack_server.until(lambda: "Answer the edited question" in answer.labels)
        await setup.ana.presses(answer, "Answer the edited question")
        await slack_server.until(lambda: setup.general.messages[-1].shown == "You said: goodbye")
        dm = slack_server.dm(setup.ana)
        setup.gates.hold("secret/2")
        secret = await setup.ana.says(dm, "secret")
        await slack_server.until(lambda: dm.messages)
        await setup.ana.deletes(secret)
        await slack_server.until(lambda: "Stop" not in dm.messages[0].labels)
        again = await setup.ana.says(dm, "what did I say?")
        await setup.answer_to(again)
        assert "secret" not in str(setup.engine.prompt_of("what did I say?").prompt.turns)


async def test_files_are_read_and_pictures_are_refused_in_words(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        files = {"notes.txt": b"the code is 4711", "photo.png": encoded(half_red(), "PNG")}
        question = await setup.ana.says(setup.general, "look", mention=True, files=files)
        assert "I cannot see images" in await setup.answer_to(question)
        assert "4711" in str(setup.engine.asked[-1][1].prompt.turns)


async def test_a_shortcut_answers_another_persons_message(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        message = await setup.ben.says(setup.general, "how do magnets work?")
        await setup.ana.picks(message, "answer_this")
        assert await setup.answer_to(message) == "You said: how do magnets work?"


async def test_people_in_the_queue_see_their_place(tmp_path: Path, slack_server: FakeSlack) -> None:
    gates = Gates()
    async with run_slack_service(tmp_path, slack_server, engine=ScriptedEngine(gates.passing, max_running=1)) as setup:
        gates.hold("first/2")
        await setup.ana.says(setup.general, "first", mention=True)
        await slack_server.until(lambda: setup.general.messages)
        waits = [await setup.ben.says(setup.general, f"later {number}", mention=True) for number in range(3)]
        await slack_server.until(lambda: any("2nd in line" in each.text for each in slack_server.statuses))
        assert len(setup.general.messages) == 1, "it is told by the status, not by messages"
        await gates.open("first/2")
        for question in waits:
            assert (await setup.answer_to(question)).startswith("You said: later")
