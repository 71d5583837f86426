"""Tests conversations on Discord with the real service: threads, commands, edits, files, waiting."""

from pathlib import Path

import pytest

from bot.conversations.bot_limit import LIMIT_REACHED, MAX_IN_A_ROW
from bot.types.messages import FinishReason
from tests.support.builders.discord_service import labels, run_discord_service
from tests.support.builders.picture_files import encoded, half_red
from tests.support.fakes.discord import Can, FakeDiscord
from tests.support.fakes.gates import Gates
from tests.support.fakes.scripted_engine import ScriptedEngine

pytest_plugins = ["tests.support.fixtures.discord"]


async def test_a_thread_goes_on_without_a_mention(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        story = await setup.ben.says(setup.general, "a long story")
        thread = await setup.ana.opens_thread(setup.general, "the story", on=story)
        await setup.ana.says(thread, "not for you yet")
        first = await setup.ana.says(thread, "sum it up", mention=True)
        assert await setup.answer_to(first) == "You said: sum it up"
        second = await setup.ben.says(thread, "shorter")
        assert await setup.answer_to(second) == "You said: shorter"
        turns = [turn.text for turn in setup.engine.prompt_of("shorter").prompt.turns]
        assert turns == ["a long story", "sum it up", "You said: sum it up", "shorter"]
        await setup.ben.says(setup.general, "and I talk to myself")
        assert len(setup.engine.questions()) == 2


async def test_threads_are_left_alone_where_that_is_set(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server, follow_threads=False) as setup:
        thread = await setup.ana.opens_thread(setup.general, "plans")
        await setup.answer_to(await setup.ana.says(thread, "hello", mention=True))
        await setup.ana.says(thread, "just talk")
        await setup.answer_to(await setup.ana.says(thread, "again", mention=True))
        assert setup.engine.questions() == ["hello", "again"]


async def test_answers_in_threads_of_their_own_make_a_conversation_each(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server, reply_in_thread=True) as setup:
        asked = [await setup.ana.says(setup.general, text, mention=True) for text in ("one", "two")]
        await discord_server.until(lambda: all(question.thread for question in asked))
        threads = [question.thread for question in asked if question.thread]
        await discord_server.until(lambda: all("Regenerate" in labels(thread.messages[-1]) for thread in threads))
        for question, thread in zip(asked, threads, strict=True):
            more = await setup.ben.says(thread, f"more of {question.id}")
            assert await setup.answer_to(more) == f"You said: more of {question.id}"
        assert not setup.general.messages
        last = setup.engine.prompt_of(f"more of {asked[1].id}").prompt.turns
        assert [turn.text for turn in last][:1] == ["two"]


async def test_without_the_content_intent_an_answer_says_how_to_go_on(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    discord_server.portal(message_content=False)
    async with run_discord_service(tmp_path, discord_server) as setup:
        thread = await setup.ana.opens_thread(setup.general, "plans")
        answer = await setup.answer_to(await setup.ana.says(thread, "hello", mention=True))
        assert "mention me each time" in answer
        assert answer.endswith("You said: hello")
        await setup.ana.says(thread, "unreadable")
        again = await setup.answer_to(await setup.ana.says(thread, "again", mention=True))
        assert again == "You said: again"
        assert await (await setup.ana.slash("settings", channel=setup.general)).answered()


async def test_a_picture_that_the_model_cannot_see_is_reported_above_the_answer(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        files = {"cat.png": encoded(half_red(), "PNG"), "a.py": b"print(1)"}
        question = await setup.ana.says(setup.general, "explain", mention=True, files=files)
        answer = await setup.answer_to(question)
        assert answer.startswith("I cannot see images, so I left out `cat.png`.")
        assert "print(1)" in setup.engine.questions()[0]


async def test_settings_are_for_those_who_manage_the_channel_and_hold_there(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        boss = discord_server.user("boss", can=Can.MANAGE_CHANNELS)
        refused = await setup.ana.slash("temperature", channel=setup.general, value=0.2)
        assert "Only channel managers can change" in await refused.answered()
        assert "0.2" in await (await boss.slash("temperature", channel=setup.general, value=0.2)).answered()
        await setup.answer_to(await setup.ana.says(setup.general, "hello", mention=True))
        assert setup.engine.prompt_of("hello").params.temperature == 0.2
        shown = await setup.ana.says(setup.general, "!settings", mention=True)
        await setup.general.until(lambda: setup.general.messages[-1].reference is shown)
        assert "0.2" in setup.general.messages[-1].content
        choices = await setup.ana.autocompletes("model", "name", "", channel=setup.general)
        assert any("fits" in choice["name"] for choice in choices)


async def test_an_edited_question_offers_another_answer(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        question = await setup.ana.says(setup.general, "helo", mention=True)
        await setup.answer_to(question)
        discord_server.unfurl(question)
        await setup.ana.edits(question, "hello", mention=True)
        (answer,) = setup.general.messages
        await setup.general.until(lambda: "Answer the edited question" in labels(answer))
        await setup.ana.clicks(answer, "Answer the edited question")
        await setup.general.until(lambda: setup.general.messages[-1].content == "You said: hello")
        assert len(setup.general.messages) == 2


@pytest.mark.fault(31)
async def test_a_deleted_question_stops_its_answer_and_is_not_remembered(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        setup.gates.hold("secret/2")
        question = await setup.ana.says(setup.general, "secret", mention=True)
        await setup.gates.reached("secret/2")
        await setup.ana.deletes(question)
        await setup.general.until(
            lambda: setup.general.messages and not setup.general.messages[0].content.endswith("▌")
        )
        await setup.answer_to(await setup.ana.says(setup.general, "hello", mention=True))
        assert [turn.text for turn in setup.engine.prompt_of("hello").prompt.turns] == ["hello"]


async def test_a_place_in_the_line_is_shown_and_replaced_by_the_answer(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    gates = Gates()
    engine = ScriptedEngine(gates.passing, max_running=1)
    async with run_discord_service(tmp_path, discord_server, engine=engine) as setup:
        other = discord_server.text_channel("other")
        gates.hold("first/1")
        await setup.ana.says(setup.general, "first", mention=True)
        await gates.reached("first/1")
        waiting = await setup.ben.says(other, "second", mention=True)
        await other.until(lambda: other.messages and "in line" in other.messages[0].content)
        assert labels(other.messages[0]) == {"Stop"}
        await gates.open("first/1")
        assert await setup.answer_to(waiting) == "You said: second"
        assert len(other.messages) == 1


async def test_an_answer_that_stopped_on_its_length_can_be_continued(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        setup.engine.answers("tell me", "once upon a time", reason=FinishReason.LENGTH)
        question = await setup.ana.says(setup.general, "tell me", mention=True)
        await setup.answer_to(question)
        await setup.ana.clicks(setup.general.messages[0], "Continue")
        await setup.general.until(lambda: len(setup.answers_to(question)) == 2)
        rated = await setup.ana.clicks(setup.general.messages[1], _custom_id(setup.general.messages[1].buttons, "👍"))
        assert await rated.answered() == "Thank you, noted."


def _custom_id(buttons: list[dict[str, object]], emoji: str) -> str:
    found = [button for button in buttons if button.get("emoji") and emoji in str(button["emoji"])]
    return str(found[0]["custom_id"])


@pytest.mark.fault(32)
async def test_a_full_queue_is_reported_at_once(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server, queue_size=1, per_user=1) as setup:
        setup.gates.hold("one/0")
        await setup.ana.says(setup.general, "one", mention=True)
        await setup.gates.reached("one/0")
        await setup.ana.says(setup.general, "two", mention=True)
        refused = await setup.ben.says(setup.general, "three", mention=True)
        await setup.general.until(lambda: [each for each in setup.general.messages if each.reference is refused])
        await setup.gates.open("one/0")


async def test_a_reply_to_an_older_answer_quotes_it_and_a_lone_mention_asks_its_target(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        await setup.answer_to(await setup.ana.says(setup.general, "tell of cats", mention=True))
        older = setup.general.messages[-1]
        await setup.answer_to(await setup.ana.says(setup.general, "tell of dogs", mention=True))
        await setup.answer_to(await setup.ana.says(setup.general, "say more about this one", reply_to=older))
        quoted = "[you wrote]\n> You said: tell of cats\n\nsay more about this one"
        assert setup.engine.questions()[-1] == quoted
        riddle = await setup.ben.says(setup.general, "what has four legs?")
        await setup.answer_to(await setup.ana.says(setup.general, "", mention=True, reply_to=riddle))
        assert setup.engine.questions()[-1] == "what has four legs?"
        assert [turn.text for turn in setup.engine.prompt_of("what has four legs?").prompt.turns].count(
            "what has four legs?"
        ) == 1


async def test_an_edit_that_adds_a_mention_is_answered_once(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        said = await setup.ana.says(setup.general, "what is 2+2?")
        await setup.ana.edits(said, "what is 2+2?", mention=True)
        assert await setup.answer_to(said) == "You said: what is 2+2?"
        await setup.ana.edits(said, "what is 2+3?", mention=True)
        await discord_server.until(lambda: "Answer the edited question" in labels(setup.general.messages[-1]))
        assert setup.engine.questions() == ["what is 2+2?"]


async def test_two_bots_do_not_answer_each_other_for_ever(tmp_path: Path, discord_server: FakeDiscord) -> None:
    other = discord_server.user("echo", bot=True)
    async with run_discord_service(tmp_path, discord_server, allow_bots=f"discord:{other.id}") as setup:
        for number in range(MAX_IN_A_ROW):
            await setup.answer_to(await other.says(setup.general, f"echo {number}", mention=True))
        last = await other.says(setup.general, "echo again", mention=True)
        await discord_server.until(lambda: setup.general.messages[-1].content == LIMIT_REACHED)
        assert setup.general.messages[-1].reference is last
        await other.says(setup.general, "and again", mention=True)
        await setup.answer_to(await setup.ana.says(setup.general, "stop it", mention=True))
        await setup.answer_to(await other.says(setup.general, "echo at last", mention=True))
        assert setup.engine.questions()[MAX_IN_A_ROW:] == ["stop it", "echo at last"]
        assert [message.content for message in setup.general.messages].count(LIMIT_REACHED) == 1
