"""Tests a service that is killed at any moment: every question is answered once, in one message."""

import asyncio
import random

import pytest

from bot.types.errors import EX_CONFIG
from tests.support.builders.killable_process import Killable, is_answered_once
from tests.support.fakes.scripted_platform import Fault

pytest_plugins = ["tests.support.fixtures.killable_process"]


@pytest.mark.fault(4)
async def test_killed_before_it_stored_the_question(killable: Killable) -> None:
    killable.stands_still()
    await killable.team.sends("ana", "hello")
    await killable.is_killed()
    assert killable.stored("SELECT 1 FROM inbox") == []
    await killable.starts()
    await is_answered_once(killable, "hello")


@pytest.mark.fault(3)
async def test_killed_after_it_stored_the_question_and_before_it_said_so(killable: Killable) -> None:
    killable.platform.gates.hold("hello/0")
    number = await killable.team.sends("ana", "hello")
    await killable.platform.gates.reached("hello/0")
    await killable.is_killed()
    killable.platform.forget_acknowledgement(number)
    await killable.starts()
    await killable.platform.gates.open("hello/0")
    await is_answered_once(killable, "hello")
    assert killable.platform.deliveries[number] == 2
    await killable.team.asks("ben", "and me?")
    await is_answered_once(killable, "hello")


async def test_killed_while_the_question_waits(killable: Killable) -> None:
    killable.platform.gates.hold("first/0")
    await killable.team.says("ana", "first")
    await killable.platform.gates.reached("first/0")
    await killable.team.says("ben", "hello")
    await killable.team.sees("hello", "in line")
    await killable.is_killed()
    await killable.starts()
    await killable.platform.gates.open("first/0")
    await is_answered_once(killable, "first")
    await is_answered_once(killable, "hello")
    assert killable.stored("SELECT attempts FROM requests ORDER BY id") == [(1,), (0,)]


async def test_killed_in_the_middle_of_an_answer(killable: Killable) -> None:
    killable.platform.gates.hold("hello/2")
    await killable.team.says("ana", "hello")
    await killable.team.sees("hello", "You said:")
    await killable.is_killed()
    await killable.starts()
    await killable.platform.gates.open("hello/2")
    await is_answered_once(killable, "hello")


@pytest.mark.parametrize("applied", [Fault.SILENT, Fault.DONE_SILENT])
async def test_killed_between_the_first_post_and_its_answer(killable: Killable, applied: Fault) -> None:
    killable.platform.gates.hold("hello/1")
    killable.platform.fails("post", applied)
    await killable.team.says("ana", "hello")
    await killable.platform.until(lambda: bool(killable.platform.struck), "it is posted")
    await killable.is_killed()
    await killable.starts()
    await killable.platform.gates.open("hello/1")
    await is_answered_once(killable, "hello")


@pytest.mark.parametrize("applied", [Fault.SILENT, Fault.DONE_SILENT])
async def test_killed_after_the_answer_was_stored_and_before_it_was_shown(killable: Killable, applied: Fault) -> None:
    for call in ("post", "update"):
        killable.platform.fails(call, applied, only=lambda reply: reply.final)
    await killable.team.says("ana", "hello")
    await killable.platform.until(lambda: bool(killable.platform.struck), "the end is on its way")
    await killable.is_killed()
    assert killable.stored("SELECT status FROM requests") == [("finished",)]
    killable.platform.forgets_faults()
    await killable.starts()
    await is_answered_once(killable, "hello")
    await killable.platform.until(
        lambda: killable.stored("SELECT state FROM outbox") == [("final",)], "it is delivered"
    )


@pytest.mark.fault(34)
async def test_a_clean_stop_hands_the_rest_on_and_counts_no_attempt(killable: Killable) -> None:
    for question in ("one", "two"):
        await killable.team.elsewhere(channel=question).says("ana", question)
        await killable.team.elsewhere(channel=question).reply_to(question)
    killable.platform.gates.hold("hello/2")
    await killable.team.says("ana", "hello")
    message = await killable.team.sees("hello", "You said:")
    await killable.team.says("ben", "later")
    assert await killable.ends() == 0
    assert killable.stored("SELECT status, attempts FROM requests ORDER BY id")[2:] == [("waiting", 0), ("waiting", 0)]
    assert killable.stored("SELECT count(*) FROM requests WHERE status = 'waiting' AND wait_left_s < 600") == [(2,)]
    await killable.starts()
    await killable.platform.gates.open("hello/2")
    assert (await killable.team.reply_to("hello")).parts == (message,)
    await is_answered_once(killable, "hello")
    await is_answered_once(killable, "later")


async def test_a_kill_gives_those_who_wait_no_time_back(killable: Killable) -> None:
    killable.platform.gates.hold("hello/2")
    await killable.team.says("ana", "hello")
    await killable.team.sees("hello", "You said:")
    await killable.team.says("ben", "later")
    left = "SELECT count(*) FROM requests WHERE status = 'waiting' AND wait_left_s < 599"
    async with asyncio.timeout(20):
        while killable.stored(left) != [(1,)]:  # noqa: ASYNC110 -- polls another process
            await asyncio.sleep(0.05)
    await killable.is_killed()
    assert killable.stored(left) == [(1,)]
    await killable.starts()
    await killable.platform.gates.open("hello/2")
    await is_answered_once(killable, "later")


@pytest.mark.fault(15)
async def test_a_second_instance_is_refused(killable: Killable) -> None:
    assert await killable.status(killable.another()) == EX_CONFIG
    await killable.team.asks("ana", "hello")


@pytest.mark.fault(35)
@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_at_random_moments_it_keeps_its_promise(killable: Killable, seed: int) -> None:
    chance = random.Random(seed)
    questions = [f"question {number}" for number in range(16)]
    for number, question in enumerate(questions):
        await killable.team.elsewhere(channel=f"room-{number % 5}").sends(f"person-{number % 7}", question)
        if number % 3 == 2:
            await asyncio.sleep(chance.uniform(0.0, 0.15))
            await killable.is_killed()
            await killable.starts()
    for number, question in enumerate(questions):
        room = killable.team.elsewhere(channel=f"room-{number % 5}")
        answer = await room.reply_to(question)
        assert len(answer.parts) == 1
        assert len(room.replies_to(question)) == 1
        assert answer.text == f"You said: {question}" or "I was stopped" in answer.text
    assert len(killable.platform.posted) == len(questions)
