"""Tests commands about history: undo, reset, forget, export, why, status; and events that are delivered twice."""

import asyncio
import json
from pathlib import Path
from unittest.mock import patch

import pytest

from bot.storage import History
from bot.types.errors import StorageError
from bot.types.messages import Accepted, ActionKind, ConversationKey, IncomingCommand, Notice, Refused
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.fakes.team import Team, person

pytest_plugins = ["tests.support.fixtures.service"]


async def reads(setup: ServiceSetup, team: Team, question: str) -> list[str]:
    """The prompt texts for a question of Ana's."""
    await team.asks("ana", question)
    return [turn.text for turn in setup.engine.prompt_of(question).prompt.turns]


async def test_undo_takes_back_the_last_question_and_its_answer(setup: ServiceSetup, team: Team) -> None:
    await team.asks("ana", "one")
    await team.asks("ana", "two")
    assert await team.told("undo", who="ana") == "Removed your last question and its answer."
    assert await reads(setup, team, "three") == ["one", "You said: one", "three"]


async def test_after_undo_the_question_before_is_the_last_one(setup: ServiceSetup, team: Team) -> None:
    await team.asks("ana", "one")
    await team.asks("ana", "two")
    await team.told("undo", who="ana")
    assert "one" in await team.told("why", who="ana")
    await team.command("regenerate", who="ana")
    await setup.platform.until(lambda: len(team.replies_to("one")) == 2, "the first question is answered again")


async def test_undo_stops_what_is_written(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("one/1")
    await team.says("ana", "one")
    await team.sees("one", "You")
    await team.told("undo", who="ana")
    assert await reads(setup, team, "two") == ["two"]


async def test_reset_begins_anew_and_keeps_what_was_said(setup: ServiceSetup, team: Team) -> None:
    await team.asks("ana", "one")
    assert "no longer reads 2 earlier messages" in await team.told("reset", who="boss")
    assert await reads(setup, team, "two") == ["two"]
    outcome = await team.command("export", who="ana")
    assert isinstance(outcome, Notice)
    assert outcome.attachment is not None
    assert "one" in outcome.attachment.text


async def test_forget_all_leaves_no_word_of_the_conversation(setup: ServiceSetup, team: Team) -> None:
    other = team.elsewhere(channel="other")
    await other.asks("ana", "elsewhere")
    await team.asks("ana", "secret one")
    setup.platform.gates.hold("secret two/1")
    await team.says("ben", "secret two")
    await team.sees("secret two", "You")
    assert "Deleted" in await team.told("forget", "all", who="boss")
    assert await reads(setup, team, "three") == ["three"]
    assert rows(setup.settings.state_dir, "SELECT 1 FROM turns WHERE text LIKE '%secret%'") == []
    await setup.platform.until(
        lambda: rows(setup.settings.state_dir, "SELECT 1 FROM outbox WHERE committed LIKE '%secret%'") == [],
        "forgotten",
    )
    assert len(await reads(setup, other, "more")) == 3


async def test_forget_mine_and_last_take_only_one_s_own(setup: ServiceSetup, team: Team) -> None:
    for who, text in (("ana", "a one"), ("ben", "b one"), ("ana", "a two"), ("ana", "a three")):
        await team.asks(who, text)
    assert await team.told("forget", "last", who="ana") == "Deleted 2 stored messages of this conversation."
    assert await team.told("forget", "mine", who="ana") == "Deleted 4 stored messages of this conversation."
    assert await reads(setup, team, "now") == ["b one", "You said: b one", "now"]
    assert "mine, last or all" in await team.refused("forget", "everything")


async def test_export_gives_markdown_or_json(team: Team) -> None:
    await team.asks("ana", "Grüße?")
    markdown, as_json = await team.command("export", who="ana"), await team.command("export", "json", who="ana")
    assert isinstance(markdown, Notice)
    assert markdown.attachment is not None
    assert markdown.attachment.name == "conversation.md"
    assert markdown.attachment.text == "**Ana**\n\nGrüße?\n\n**Inhouse**\n\nYou said: Grüße?\n"
    assert isinstance(as_json, Notice)
    assert as_json.attachment is not None
    turns = json.loads(as_json.attachment.text)
    assert [(turn["role"], turn["text"]) for turn in turns] == [("user", "Grüße?"), ("assistant", "You said: Grüße?")]


async def test_why_says_what_was_read_and_what_was_not(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("two", "An answer.", dropped=2)
    await team.asks("ana", "one")
    assert "No question has been asked here yet." in await team.elsewhere(channel="other").refused("why")
    await team.asks("ben", "two")
    told = await team.told("why", who="ana")
    assert "small read 5 tokens, 0% of its window of 2,048 (2 were cached), and wrote 2." in told
    assert "The oldest 2 messages did not fit and were left out." in told
    assert told.endswith("It read:\n- `Ben`: `two`")


async def test_why_of_an_answer_that_failed(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("hello", "no", fails_at=0)
    await team.asks("ana", "hello")
    assert "has no record of its prompt" in await team.refused("why")


async def test_status_tells_the_model_the_machine_and_the_queue(setup: ServiceSetup, team: Team) -> None:
    await team.asks("ana", "first")
    setup.platform.gates.hold("hello/1")
    await team.says("ana", "hello")
    await team.sees("hello", "You")
    await team.says("ana", "more")
    told = await team.told("status", who="ana")
    assert "- model: small on cpu, float32, 2,048 tokens, many answers at once" in told
    assert "weights 100 MB, process 512 MB, KV cache 50 MB for 4,096 tokens, 25% used" in told
    assert "- speed: 21.5 tokens/s" in told
    assert "- queue: 1 answer being written, 1 waiting" in told


async def test_status_while_a_model_is_loaded_and_when_none_is(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("half large")
    await team.command("model", "large")
    await team.says("ana", "hello")
    await setup.platform.gates.reached("half large")
    assert "- loading large, 50%" in await team.told("status")
    setup.engine.deadly["large"], setup.engine.bad["small"] = 100, "small is damaged."
    await setup.platform.gates.open("half large")
    await team.reply_to("hello")
    assert "- no model is loaded" in await team.told("status")


async def test_a_command_that_is_delivered_twice_acts_once(setup: ServiceSetup, team: Team) -> None:
    for text in ("one", "two", "three"):
        await team.asks("ana", text)
    number = await team.gives("undo", who="ana")
    assert isinstance(await setup.platform.outcome(number), Notice)
    assert await setup.platform.deliver_again(number) == Accepted()
    assert (await reads(setup, team, "four"))[-3:] == ["two", "You said: two", "four"]


async def test_a_command_whose_process_dies_before_it_was_done_is_done_when_it_comes_again(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform:
        async with run_service(tmp_path, platform) as setup:
            team = setup.team
            await team.asks("ana", "my secret")
            with patch("bot.storage.history.History.forget_author", side_effect=asyncio.CancelledError) as dying:
                number = await team.gives("forget", who="ana")
                await platform.until(lambda: bool(dying.called), "it is about to be done")
        async with run_service(tmp_path, platform) as setup:
            assert isinstance(await platform.outcome(number), Notice)
            assert await platform.deliver_again(number) == Accepted()
            assert await reads(setup, team, "what did I say?") == ["what did I say?"]


@pytest.mark.parametrize("name", ["regenerate", "continue"])
async def test_a_request_for_more_that_is_delivered_twice_is_one(setup: ServiceSetup, team: Team, name: str) -> None:
    await team.asks("ana", "one")
    number = await team.gives(name, who="ana")
    await team.reply_to("one", 2)
    assert await setup.platform.deliver_again(number) == Accepted()
    await team.asks("ana", "two")
    assert setup.engine.questions() == ["one", "one", "two"]


async def test_a_button_that_is_delivered_twice_acts_once(setup: ServiceSetup, team: Team) -> None:
    answer = await team.asks("ana", "one")
    await team.presses(answer.first, ActionKind.REGENERATE)
    await team.reply_to("one", 2)
    assert await setup.platform.deliver_again(len(setup.platform.said) - 1) == Accepted()
    await team.asks("ana", "two")
    assert setup.engine.questions() == ["one", "one", "two"]


async def test_a_command_that_storage_failed_half_way_acts_when_it_comes_again(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object) -> None:
        raise StorageError("The database is locked.")

    with monkeypatch.context() as patched:
        patched.setattr(History, "set", failing)
        number = await team.gives("temperature", "0.2")
        await setup.platform.until(lambda: number in setup.platform.errors, "it is not acknowledged")
    assert setup.platform.errors[number] == ["The database is locked."]
    assert await setup.platform.deliver_again(number) == Notice("temperature is now 0.2 here.")
    assert await setup.platform.deliver_again(number) == Accepted()


async def test_a_command_that_was_given_up_half_way_does_not_take_back_twice(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("one", "two"):
        await team.asks("ana", text)
    undo, undone = History.undo, asyncio.Event()

    async def slow(history: History, key: ConversationKey, asker_id: str | None) -> None:
        await undo(history, key, asker_id)
        undone.set()
        await asyncio.Event().wait()

    event = IncomingCommand(team.key, "event-x", person("ana"), "undo", {}, 1.0)
    core = setup.adapter.core
    assert core is not None
    with monkeypatch.context() as patched:
        patched.setattr(History, "undo", slow)
        command = asyncio.create_task(core.handle(event))
        await undone.wait()
        command.cancel()
        await asyncio.gather(command, return_exceptions=True)
    assert await core.handle(event) == Accepted()
    assert await reads(setup, team, "three") == ["one", "You said: one", "three"]


async def test_a_question_asked_by_command_twice_is_one(setup: ServiceSetup, team: Team) -> None:
    number = await team.gives("ask", "hello", who="ana")
    await team.reply_to("hello")
    assert await setup.platform.deliver_again(number) == Accepted()
    await team.asks("ana", "two")
    assert setup.engine.questions() == ["hello", "two"]


async def test_a_full_queue_refuses_buttons_too(setup: ServiceSetup, team: Team) -> None:
    answer = await team.asks("ana", "one")
    setup.platform.gates.hold("two/0")
    for text in ("two", "three", "four", "five"):
        await team.says("ana", text)
    outcome = await team.presses(answer.first, ActionKind.REGENERATE)
    assert isinstance(outcome, Refused)
    assert "3 questions waiting" in outcome.text
