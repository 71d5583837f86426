"""Tests edits and deletions of questions after they were asked."""

import pytest

from bot.storage import History, Inbox, Outbox
from bot.types.errors import StorageError
from bot.types.messages import ActionKind, FinishReason
from tests.support.builders.service import ServiceSetup
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_platform import Fault, Posted
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.service"]


async def offers_rerun(setup: ServiceSetup, message: Posted) -> None:
    await setup.platform.until(lambda: message.buttons[:1] == (ActionKind.RERUN,), "another answer is offered")


async def test_an_edited_question_gets_the_offer_of_another_answer(setup: ServiceSetup, team: Team) -> None:
    answer = await team.asks("ana", "helo")
    await team.edits("helo", "hello")
    await offers_rerun(setup, answer.first)
    assert answer.first.buttons == (ActionKind.RERUN, ActionKind.GOOD, ActionKind.BAD)
    assert (answer.text, len(setup.platform.posted)) == ("You said: helo", 1)
    await team.presses(answer.first, ActionKind.RERUN)
    again = await team.reply_to("hello", 2)
    assert again.text == "You said: hello"
    assert again.first.buttons == (ActionKind.REGENERATE, ActionKind.GOOD, ActionKind.BAD)
    assert setup.engine.questions() == ["helo", "hello"]


async def test_an_edit_while_the_answer_is_written_is_offered_at_its_end(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("helo/1")
    await team.says("ana", "helo")
    await team.sees("helo", "You")
    await team.edits("helo", "hello")
    await setup.platform.gates.open("helo/1")
    answer = await team.reply_to("helo")
    assert answer.first.buttons == (ActionKind.RERUN, ActionKind.GOOD, ActionKind.BAD)


async def test_an_edit_of_a_question_that_still_waits_is_what_is_answered(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("first/0")
    await team.says("ana", "first")
    await setup.platform.gates.reached("first/0")
    await team.says("ana", "helo")
    await team.edits("helo", "hello")
    await setup.platform.gates.open("first/0")
    answer = await team.reply_to("hello")
    assert answer.text == "You said: hello"
    assert answer.first.buttons[0] is ActionKind.REGENERATE


@pytest.mark.fault(6)
async def test_an_older_edit_that_comes_late_changes_neither_a_waiting_question_nor_its_answer(
    setup: ServiceSetup, team: Team
) -> None:
    setup.platform.gates.hold("first/0")
    await team.says("ana", "first")
    await setup.platform.gates.reached("first/0")
    await team.says("ana", "hlo")
    await team.edits("hlo", "hello", at=2.0)
    await team.edits("hlo", "helo", at=1.0)
    await setup.platform.gates.open("first/0")
    answer = await team.reply_to("hello")
    assert answer.text == "You said: hello"
    await team.edits("hlo", "helo", at=1.0)
    await team.asks("ana", "next")
    assert answer.first.buttons[0] is ActionKind.REGENERATE
    assert [turn.text for turn in setup.engine.prompt_of("next").prompt.turns][2] == "hello"


@pytest.mark.fault(6)
async def test_an_edit_that_arrives_before_its_question_is_what_is_answered(setup: ServiceSetup, team: Team) -> None:
    """As while the question's files are read, and when Slack delivers a message again that could not be stored."""
    team.asked["helo"] = "message-1"
    await team.edits("helo", "hello", at=5.0)
    await team.edits("helo", "hallo", at=4.0)
    assert (await team.asks("ana", "helo")).text == "You said: hello"
    assert setup.engine.questions() == ["hello"]


async def test_an_early_edit_that_could_not_be_stored_is_stored_with_the_next_delivery(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, edit, failures = Inbox.ask, History.edit, [StorageError("The disk is full.")]

    async def slow(*args: object, **more: object) -> object:
        await setup.adapter.passing("storing")
        return await ask(*args, **more)  # type: ignore[arg-type]  # same arguments

    async def fail_once(*args: object, **more: object) -> bool:
        if failures and team.asked["helo"] in args and setup.platform.outcomes:  # the one after the message was stored
            raise failures.pop()
        return await edit(*args, **more)  # type: ignore[arg-type]  # same arguments

    monkeypatch.setattr(Inbox, "ask", slow)
    monkeypatch.setattr(History, "edit", fail_once)
    setup.platform.gates.hold("storing")
    question = await team.sends("ana", "helo")
    await setup.platform.gates.reached("storing")
    await team.edits("helo", "hello", at=5.0)
    await setup.platform.gates.open("storing")
    await team.reply_to("helo")
    assert not failures
    await setup.platform.deliver_again(question)
    await team.asks("ana", "next")
    assert setup.engine.prompt_of("next").prompt.turns[0].text == "hello"


async def test_an_edit_before_a_question_that_is_newer_changes_nothing(setup: ServiceSetup, team: Team) -> None:
    team.asked["hello"] = "message-1"
    await team.edits("hello", "helo", at=4.0)
    assert (await team.asks("ana", "hello", edited_at=5.0)).text == "You said: hello"


async def test_an_edit_while_its_question_is_being_stored_is_kept(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Inbox.ask

    async def slow(*args: object, **more: object) -> object:
        await setup.adapter.passing("storing")
        return await ask(*args, **more)  # type: ignore[arg-type]  # same arguments

    monkeypatch.setattr(Inbox, "ask", slow)
    setup.platform.gates.hold("storing")
    await team.sends("ana", "helo")
    await setup.platform.gates.reached("storing")
    await team.edits("helo", "hello", at=5.0)
    await setup.platform.gates.open("storing")
    await team.reply_to("helo")
    await team.asks("ana", "next")
    assert setup.engine.prompt_of("next").prompt.turns[0].text == "hello"


async def test_an_edit_in_the_moment_in_which_the_answer_is_posted_makes_no_second_message(
    setup: ServiceSetup, team: Team
) -> None:
    setup.platform.gates.hold("post")
    await team.says("ana", "helo")
    await setup.platform.gates.reached("post")
    await setup.platform.until(
        lambda: rows(setup.settings.state_dir, "SELECT 1 FROM outbox WHERE state = 'ready'") != [], "it is written"
    )
    await team.edits("helo", "hello")
    await team.edits("hello", "hello there")
    await setup.platform.gates.open("post")
    await offers_rerun(setup, (await team.reply_to("helo")).first)
    assert len(setup.platform.posted) == 1


async def test_an_edit_while_the_end_is_being_stored_is_offered(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Inbox.finish

    async def slow(*args: object, **more: object) -> None:
        await finish(*args, **more)  # type: ignore[arg-type]  # same arguments
        await setup.adapter.passing("stored")

    monkeypatch.setattr(Inbox, "finish", slow)
    setup.platform.gates.hold("stored")
    await team.says("ana", "helo")
    await setup.platform.gates.reached("stored")
    await team.edits("helo", "hello")
    await setup.platform.gates.open("stored")
    await offers_rerun(setup, (await team.reply_to("helo")).first)


@pytest.mark.parametrize("new", ["hello", "something else"])
async def test_there_is_no_offer_for_an_old_question_or_an_edit_that_changes_nothing(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch, new: str
) -> None:
    answer = await team.asks("ana", "hello")
    if new != "hello":
        monkeypatch.setattr("bot.core.actions.RERUN_S", -1.0)
    await team.edits("hello", new)
    await team.asks("ana", "next")
    assert answer.first.buttons[0] is ActionKind.REGENERATE
    assert len(answer.first.history) <= 2


async def test_what_could_not_be_shown_or_was_forgotten_is_not_offered_again(setup: ServiceSetup, team: Team) -> None:
    setup.platform.fails("post", Fault.REJECTED)
    await team.says("ana", "hello")
    await setup.platform.until(
        lambda: rows(setup.settings.state_dir, "SELECT 1 FROM outbox WHERE state = 'dropped'") != [], "it is dropped"
    )
    await team.edits("hello", "hello there")
    answer = await team.asks("ana", "helo")
    await team.told("forget", who="ana")
    await team.edits("helo", "good morning")
    await team.asks("ana", "next")
    assert len(setup.platform.posted) == 2
    assert answer.text == "You said: helo"


async def test_an_offer_that_storage_fails_is_none(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object) -> None:
        raise StorageError("The disk is full.")

    answer = await team.asks("ana", "helo")
    monkeypatch.setattr(Outbox, "of_request", failing)
    await team.edits("helo", "hello")
    await team.asks("ana", "next")
    assert answer.first.buttons[0] is ActionKind.REGENERATE


async def test_deleting_the_question_stops_its_answer_and_removes_both(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("secret/1")
    await team.says("ana", "secret")
    await team.sees("secret", "You")
    await team.deletes("secret")
    answer = await team.reply_to("secret")
    assert answer.reason is FinishReason.ABORT
    await team.asks("ana", "next")
    assert [turn.text for turn in setup.engine.prompt_of("next").prompt.turns] == ["next"]
