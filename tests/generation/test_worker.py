"""Tests the worker: models switch when nothing runs, and neither a dead engine nor a bad model costs an answer."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bot.generation.worker import DEATHS_UNTIL_ALONE, MOST_EXTERNAL, UNSTORED
from bot.replies.replies import LiveReply
from bot.storage.inbox import Inbox
from bot.types.errors import StorageError
from bot.types.messages import FinishReason
from tests.support.builders.captured_logs import logs_at
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.service"]


async def test_conversations_are_answered_at_the_same_time_up_to_what_the_model_takes(
    setup: ServiceSetup, team: Team
) -> None:
    rooms = [team.elsewhere(channel=f"room-{number}") for number in range(6)]
    for number, room in enumerate(rooms):
        setup.platform.gates.hold(f"question {number}/0")
        await room.says(f"person-{number}", f"question {number}")
    for number in range(4):
        await setup.platform.gates.reached(f"question {number}/0")
    assert setup.engine.peak == 4
    for number in range(6):
        await setup.platform.gates.open(f"question {number}/0")
    for number, room in enumerate(rooms):
        assert (await room.reply_to(f"question {number}")).text == f"You said: question {number}"
    assert setup.engine.peak == 4


async def test_one_conversation_is_answered_in_order(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("one/0")
    for who, text in (("ana", "one"), ("ben", "two"), ("ana", "three")):
        await team.says(who, text)
    await setup.platform.gates.open("one/0")
    await team.reply_to("three")
    assert setup.engine.questions() == ["one", "two", "three"]
    read = [turn.text for turn in setup.engine.prompt_of("three").prompt.turns]
    assert read == ["one", "You said: one", "two", "You said: two", "three"]


async def test_another_model_is_loaded_when_running_answers_are_done(setup: ServiceSetup, team: Team) -> None:
    other = team.elsewhere(channel="other")
    setup.platform.gates.hold("one/1")
    setup.platform.gates.hold("half large")
    await team.says("ana", "one")
    await team.sees("one", "You")
    assert "large answers here now" in await other.told("model", "large")
    await other.says("ben", "two")
    await setup.platform.gates.open("one/1")
    assert (await team.reply_to("one")).text == "You said: one"
    await setup.platform.gates.reached("half large")
    message = await other.sees("two", "loading large, 50%")
    await setup.platform.gates.open("half large")
    assert (await other.reply_to("two")).parts == (message,)
    assert [(model, asked.prompt.turns[-1].text) for model, asked in setup.engine.asked] == [
        ("small", "one"),
        ("large", "two"),
    ]


async def test_a_model_that_does_not_load_is_rolled_back_with_a_note(setup: ServiceSetup, team: Team) -> None:
    setup.engine.bad["broken"] = "The weights of broken are damaged; fetch it again."
    await team.command("model", "broken")
    answer = await team.asks("ana", "hello")
    assert answer.text == (
        "*The weights of broken are damaged; fetch it again. small answers instead.*\n\nYou said: hello"
    )
    assert setup.engine.loads == ["small", "broken", "small"]
    assert (await team.told("model")).startswith("small answers here")
    assert (await team.asks("ana", "again")).text == "You said: again"
    assert setup.engine.loads == ["small", "broken", "small"]


async def test_when_no_model_is_left_that_loads_the_question_gets_an_error(setup: ServiceSetup, team: Team) -> None:
    setup.engine.bad |= {"broken": "broken is damaged.", "small": "small is damaged too."}
    await team.command("model", "broken")
    answer = await team.asks("ana", "hello")
    assert answer.text == "⚠️ small is damaged too."
    assert answer.reason is FinishReason.ERROR
    setup.engine.bad.clear()
    assert (await team.asks("ana", "hello again")).text == "You said: hello again"


async def test_an_answer_that_cannot_be_shown_is_no_longer_written(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(reply: LiveReply, text: str) -> None:
        raise AssertionError("a bug")

    running = []
    finish = LiveReply.finish

    async def noted(reply: LiveReply, *args: Any, **more: Any) -> None:
        running.append(setup.engine.running_now())
        await finish(reply, *args, **more)

    monkeypatch.setattr(LiveReply, "push", broken)
    monkeypatch.setattr(LiveReply, "finish", noted)
    assert (await team.asks("ana", "hello")).reason is FinishReason.ERROR
    assert running == [set()]


@pytest.mark.fault(27)
async def test_when_the_engine_dies_in_the_middle_the_same_message_is_finished(setup: ServiceSetup, team: Team) -> None:
    await team.elsewhere(channel="other").asks("ben", "before")  # so that the first load is complete
    setup.engine.answers("hello", "Good morning to you all", dies_at=3, deaths=1)
    setup.platform.gates.hold("load small")
    await team.says("ana", "hello")
    message = await team.sees("hello", "restarting the model")
    await setup.platform.gates.open("load small")
    answer = await team.reply_to("hello")
    assert answer.parts == (message,)
    assert answer.text == "Good morning to you all"
    assert len(setup.platform.posted) == 2
    assert "restarted 1 time" in await team.told("status")


@pytest.mark.fault(28)
async def test_a_request_that_always_kills_it_gets_two_attempts_and_an_error(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("poison", "dies here", dies_at=1)
    await team.asks("ana", "before")
    poisoned = await team.asks("eve", "poison")
    assert poisoned.reason is FinishReason.ERROR
    assert "ended 2 times while it wrote this answer" in poisoned.text
    assert (await team.asks("ben", "and me?")).text == "You said: and me?"
    assert setup.engine.questions() == ["before", "poison", "poison", "and me?"]


@pytest.mark.fault(28)
async def test_what_ran_beside_it_is_tried_together_once_and_then_one_by_one(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("poison", "dies here", dies_at=1)
    setup.platform.gates.hold("poison/1")
    setup.platform.gates.hold("hello/1")
    neighbour, later = team.elsewhere(channel="neighbour"), team.elsewhere(channel="later")
    await team.says("eve", "poison")
    await neighbour.says("ana", "hello")
    await setup.platform.gates.reached("poison/1")
    await setup.platform.gates.reached("hello/1")
    await setup.platform.gates.open("poison/1")
    await setup.platform.gates.open("hello/1")
    poisoned = await team.reply_to("poison")
    assert poisoned.reason is FinishReason.ERROR
    assert "times while it wrote this answer" in poisoned.text
    assert (await neighbour.reply_to("hello")).text == "You said: hello"
    assert (await later.asks("ben", "and me?")).text == "You said: and me?"
    assert setup.engine.questions().count("poison") in (2, 3), "3 if hello was still being written at the second death"
    assert setup.engine.questions().count("hello") <= 3


async def test_requests_under_which_the_engine_died_twice_run_alone_the_next_time(
    setup: ServiceSetup, team: Team
) -> None:
    rooms = [team.elsewhere(channel=f"room-{number}") for number in range(3)]
    questions = {f"question {number}" for number in range(3)}
    for number, room in enumerate(rooms):
        setup.platform.gates.hold(f"question {number}/1")
        await room.says(f"person-{number}", f"question {number}")

    def all_run(loads: int) -> bool:
        return len(setup.engine.loads) == loads and setup.engine.running_now() == questions

    for loads in (1, 2):
        await setup.platform.until(partial(all_run, loads), "all run together")
        setup.engine.die()
    await setup.platform.until(lambda: len(setup.engine.loads) == 3, "the engine runs again")
    alone: set[str] = set()
    while len(alone) < 3:
        await setup.platform.until(lambda: setup.engine.running_now() - alone != set(), "the next one is being written")
        (question,) = setup.engine.running_now()  # no other beside it
        alone.add(question)
        await setup.platform.gates.open(f"{question}/1")
        await setup.platform.until(lambda: not setup.engine.running_now() & alone, "it is answered")
    for number, room in enumerate(rooms):
        assert (await room.reply_to(f"question {number}")).reason is FinishReason.STOP
    assert setup.engine.loads == ["small"] * 3


async def test_a_death_with_an_external_cause_blames_no_request(setup: ServiceSetup, team: Team) -> None:
    other = team.elsewhere(channel="other")
    setup.platform.gates.hold("hello/1")
    setup.platform.gates.hold("and me?/1")
    await team.says("ana", "hello")
    await other.says("ben", "and me?")
    for deaths in range(MOST_EXTERNAL):
        await setup.platform.until(lambda: setup.engine.running_now() == {"hello", "and me?"}, "both run together")
        setup.engine.die(external=True)
        await setup.platform.until(partial(lambda loads: len(setup.engine.loads) > loads, deaths + 1), "it is loaded")
    await setup.platform.gates.open("hello/1")
    await setup.platform.gates.open("and me?/1")
    assert (await team.reply_to("hello")).text == "You said: hello"
    assert (await other.reply_to("and me?")).text == "You said: and me?"
    assert rows(setup.settings.state_dir, "SELECT attempts FROM requests") == [(0,), (0,)]


async def test_a_request_under_which_the_kernel_always_kills_the_engine_ends(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("poison", "too large", dies_at=1, external=True)
    poisoned = await team.asks("eve", "poison")
    assert "ended 2 times while it wrote this answer" in poisoned.text
    assert setup.engine.questions().count("poison") == MOST_EXTERNAL + DEATHS_UNTIL_ALONE


async def test_the_order_in_a_conversation_survives_the_death_of_the_engine(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("one", "the first answer", dies_at=1, deaths=1)
    setup.platform.gates.hold("one/1")
    await team.says("ana", "one")
    await setup.platform.gates.reached("one/1")
    await team.says("ben", "two")
    await setup.platform.gates.open("one/1")
    await team.reply_to("two")
    assert setup.engine.questions() == ["one", "one", "two"]
    read = [turn.text for turn in setup.engine.prompt_of("two").prompt.turns]
    assert read == ["one", "the first answer", "two"]


async def test_an_engine_that_dies_while_it_loads_is_started_again(setup: ServiceSetup, team: Team) -> None:
    setup.engine.deadly["large"] = 1
    await team.command("model", "large")
    assert (await team.asks("ana", "hello")).text == "You said: hello"
    assert setup.engine.loads == ["small", "large", "large"]


async def test_a_model_whose_load_always_ends_the_engine_is_rolled_back(setup: ServiceSetup, team: Team) -> None:
    setup.engine.deadly["large"] = 100
    await team.command("model", "large")
    answer = await team.asks("ana", "hello")
    note = "*Loading large ended the engine's process 2 times. small answers instead.*"
    assert answer.text == f"{note}\n\nYou said: hello"
    assert (await team.elsewhere(channel="other").asks("ben", "me?")).text == "You said: me?"


async def test_an_engine_that_dies_at_the_start_is_started_by_the_next_question(tmp_path: Path) -> None:
    async with ScriptedPlatform() as platform:
        engine = ScriptedEngine(platform.gates.passing)
        engine.deadly["small"] = 1
        async with run_service(tmp_path, platform, engine=engine, ready=False) as setup:
            assert (await setup.team.asks("ana", "hello")).text == "You said: hello"
            assert engine.loads == ["small", "small"]


async def test_thoughts_reach_no_channel_no_prompt_and_no_log(tmp_path: Path) -> None:
    with logs_at("DEBUG") as log:
        async with run_service(tmp_path) as setup:
            setup.engine.answers("hello", "Hi.", reasoning="Xylophones greet.")
            assert (await setup.team.asks("ana", "hello")).text == "Hi."
            await setup.team.asks("ana", "and now?")
            assert "Xylophones" not in str(setup.engine.prompt_of("and now?"))
            assert "Xylophones" not in str([posted.history for posted in setup.platform.posted])
            stored = [rows(setup.settings.state_dir, f"SELECT * FROM {table}") for table in ("turns", "outbox")]
    assert "and now?" in str(stored)
    assert "Xylophones" not in str(stored)
    assert "Xylophones" not in log.getvalue()


async def test_one_request_fails_and_the_others_do_not(setup: ServiceSetup, team: Team) -> None:
    setup.engine.answers("too long", "never", fails_at=0)
    other = team.elsewhere(channel="other")
    await team.says("ana", "too long")
    await other.says("ben", "hello")
    assert (await team.reply_to("too long")).text == "⚠️ The prompt does not fit."
    assert (await other.reply_to("hello")).text == "You said: hello"
    assert setup.engine.loads == ["small"]


@pytest.mark.parametrize("where", ["load", "stream"])
async def test_a_bug_of_ours_costs_one_answer(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    await team.asks("ana", "first")
    await team.command("model", "large")
    with monkeypatch.context() as patched:
        patched.setattr(setup.engine, where, lambda *_: 1 / 0)
        answer = await team.asks("ana", "hello")
    assert answer.text == "⚠️ Something went wrong here; the log of Inhouse says what."
    assert (await team.asks("ana", "hello again")).text == "You said: hello again"


async def test_when_a_retry_cannot_be_stored_the_question_gets_an_error_and_the_queue_goes_on(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object, **__: object) -> None:
        raise StorageError("The disk is full.")

    setup.engine.answers("hello", "Good morning", dies_at=1, deaths=1)
    with monkeypatch.context() as patched:
        patched.setattr(Inbox, "hand_back", failing)
        answer = await team.asks("ana", "hello")
    assert answer.text == f"Good\n\n⚠️ {UNSTORED}"
    assert (await team.asks("ana", "and now?")).text == "You said: and now?"


@pytest.mark.fault(28)
@pytest.mark.parametrize("deaths", [1, 2])
async def test_killed_runs_of_the_service_are_no_deaths_of_the_engine(tmp_path: Path, deaths: int) -> None:
    async with ScriptedPlatform() as platform:
        platform.gates.hold("hello/0")
        async with run_service(tmp_path, platform, drain=0) as setup:
            team = setup.team
            await team.says("ana", "hello")
            await platform.gates.reached("hello/0")
            await setup.stop()
        changed = "UPDATE requests SET attempts = 1, service_runs = 1 WHERE status = 'waiting' RETURNING request_id"
        assert len(rows(setup.settings.state_dir, changed)) == 1
        await platform.gates.open("hello/0")
        engine = ScriptedEngine(platform.gates.passing)
        engine.answers("hello", "Good morning", dies_at=1, deaths=deaths)
        async with run_service(tmp_path, platform, engine=engine):
            answer = await team.reply_to("hello")
            given_up = "⚠️ The model's process ended 2 times while it wrote this answer, so I gave it up."
            assert answer.text == ("Good morning" if deaths == 1 else f"Good\n\n{given_up}")
