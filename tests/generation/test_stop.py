"""Tests requests that end early: stop at every moment, deadlines, deleted questions."""

from pathlib import Path

import pytest

from bot.storage.inbox import Inbox
from bot.types.messages import FinishReason
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_platform import Posted
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.service"]


async def stops(team: Team, question: str) -> Posted:
    """Ana stops her answer; its message."""
    assert await team.told("stop", who="ana") == "Stopped."
    answer = await team.reply_to(question)
    assert answer.reason is FinishReason.ABORT
    return answer.first


async def test_stop_while_it_waits(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("first/0")
    await team.says("ben", "first")
    await setup.platform.gates.reached("first/0")
    await team.says("ana", "hello")
    assert (await stops(team, "hello")).text == "Stopped."
    await setup.platform.gates.open("first/0")
    await team.reply_to("first")
    assert setup.engine.questions() == ["first"]
    assert "0 answers being written, 0 waiting" in await team.told("status")


@pytest.mark.parametrize("fate", ["loads", "does not load", "dies"])
async def test_stop_while_its_model_is_loaded(setup: ServiceSetup, team: Team, fate: str) -> None:
    await team.command("model", "broken")
    setup.platform.gates.hold("half broken")
    await team.says("ana", "hello")
    await setup.platform.gates.reached("half broken")
    assert (await stops(team, "hello")).text == "Stopped."
    if fate == "does not load":
        setup.engine.bad["broken"] = "damaged"
    elif fate == "dies":
        setup.engine.deadly["broken"] = 1
    await setup.platform.gates.open("half broken")
    assert (await team.elsewhere(channel="other").asks("ben", "and me?")).text == "You said: and me?"
    assert setup.engine.questions() == ["and me?"]
    assert len(team.replies_to("hello")) == 1
    assert rows(setup.settings.state_dir, "SELECT status FROM requests ORDER BY id") == [("cancelled",), ("finished",)]


@pytest.mark.fault(31)
async def test_stop_while_it_is_written(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("hello/1")
    await team.says("ana", "hello")
    await team.sees("hello", "You")
    assert (await stops(team, "hello")).text == "You"
    assert (await team.asks("ana", "and now?")).text == "You said: and now?"


async def test_stop_between_the_queue_and_the_engine(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Inbox.start

    async def slow(inbox: Inbox, request_id: str) -> None:
        await setup.platform.gates.passing("start")
        await start(inbox, request_id)

    monkeypatch.setattr(Inbox, "start", slow)
    setup.platform.gates.hold("start")
    await team.says("ana", "hello")
    await setup.platform.gates.reached("start")
    assert await team.told("stop", who="ana") == "Stopped."
    await setup.platform.gates.open("start")
    assert (await team.reply_to("hello")).text == "Stopped."
    assert setup.engine.questions() == []


async def test_stop_of_an_answer_under_which_the_engine_dies(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("hello", "Good morning", dies_at=1)
    await team.says("ana", "quick")
    await team.reply_to("quick")
    setup.platform.gates.hold("hello/1")
    await team.says("ana", "hello")
    message = await team.sees("hello", "Good")
    stopped = await team.told("stop", who="ana")
    setup.engine.die()
    assert stopped == "Stopped."
    answer = await team.reply_to("hello")
    assert answer.parts == (message,)
    assert answer.reason is FinishReason.ABORT
    assert setup.engine.questions() == ["quick", "hello"]


async def test_stop_while_it_is_requeued(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("hello", "Good morning", dies_at=1, deaths=1)
    await team.elsewhere(channel="other").asks("ben", "before")  # so that the first load is complete
    setup.platform.gates.hold("half small")
    await team.says("ana", "hello")
    await setup.platform.gates.reached("half small")
    message = await team.sees("hello", "restarting the model")
    stopped = await stops(team, "hello")
    assert stopped is message
    await setup.platform.gates.open("half small")
    assert (await team.asks("ana", "and now?")).text == "You said: and now?"
    assert setup.engine.questions() == ["before", "hello", "and now?"]


async def test_stop_while_a_retry_is_stored(setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_back = Inbox.hand_back

    async def slow(inbox: Inbox, request_id: str, wait_left_s: float, *, counts: bool) -> None:
        await setup.platform.gates.passing("hand back")
        await hand_back(inbox, request_id, wait_left_s, counts=counts)

    monkeypatch.setattr(Inbox, "hand_back", slow)
    setup.engine.answers("hello", "Good morning", dies_at=1, deaths=1)
    setup.platform.gates.hold("hand back")
    await team.says("ana", "hello")
    await setup.platform.gates.reached("hand back")
    assert await team.told("stop", who="ana") == "Stopped."
    await setup.platform.gates.open("hand back")
    assert (await team.reply_to("hello")).reason is FinishReason.ABORT
    assert (await team.asks("ana", "and now?")).text == "You said: and now?"
    assert setup.engine.questions() == ["hello", "and now?"]


async def test_what_waits_too_long_ends_with_a_sentence(tmp_path: Path) -> None:
    async with run_service(tmp_path, deadline=1) as setup:
        setup.platform.gates.hold("first/0")
        await setup.team.says("ben", "first")
        await setup.platform.gates.reached("first/0")
        await setup.team.says("ana", "hello")
        answer = await setup.team.reply_to("hello")
        assert answer.text == "⚠️ This waited longer than the 1 s that it may, so it was dropped. Please ask again."
        await setup.platform.gates.open("first/0")
        assert (await setup.team.reply_to("first")).text == "You said: first"


async def test_an_answer_may_take_half_of_the_window_at_most(setup: ServiceSetup, team: Team) -> None:
    await team.command("max_tokens", "8000")
    await team.asks("ana", "hello")
    assert setup.engine.prompt_of("hello").params.max_tokens == 1024


async def test_a_question_that_is_deleted_while_it_waits_is_not_answered_at_all(
    setup: ServiceSetup, team: Team
) -> None:
    setup.platform.gates.hold("first/0")
    await team.says("ana", "first")
    await setup.platform.gates.reached("first/0")
    await team.says("ana", "second")
    await team.deletes("second")
    await setup.platform.gates.open("first/0")
    await team.asks("ana", "third")
    assert [message.reply.question_id for message in setup.platform.posted] == [
        team.asked["first"],
        team.asked["third"],
    ]


@pytest.mark.fault(31)
async def test_a_question_that_is_deleted_while_it_is_answered_leaves_nothing(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("hello/1")
    await team.says("ana", "hello")
    await team.sees("hello", "You")
    await team.deletes("hello")
    await team.asks("ana", "and now?")
    assert [turn.text for turn in setup.engine.prompt_of("and now?").prompt.turns] == ["and now?"]
    assert rows(setup.settings.state_dir, "SELECT text FROM turns WHERE text LIKE '%hello%'") == []
