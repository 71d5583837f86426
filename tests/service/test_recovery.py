"""A service that is killed at any moment: every question is answered once, in one message, and nothing is lost."""

import asyncio
import random

import pytest

from bot.types.errors import EX_CONFIG
from tests.support.builders.killable_process import Killable, is_answered_once
from tests.support.fakes.world import Fault

pytest_plugins = ["tests.support.fixtures.killable_process"]


@pytest.mark.fault(4)
async def test_killed_before_it_stored_the_question(house: Killable) -> None:
    house.stands_still()
    await house.team.sends("ana", "hello")
    await house.is_killed()
    assert house.stored("SELECT 1 FROM inbox") == []
    await house.starts()
    await is_answered_once(house, "hello")


@pytest.mark.fault(3)
async def test_killed_after_it_stored_the_question_and_before_it_said_so(house: Killable) -> None:
    house.world.gates.hold("hello/0")
    number = await house.team.sends("ana", "hello")
    await house.world.gates.reached("hello/0")
    await house.is_killed()
    house.world.forget_acknowledgement(number)
    await house.starts()
    await house.world.gates.open("hello/0")
    await is_answered_once(house, "hello")
    assert house.world.deliveries[number] == 2
    await house.team.asks("ben", "and me?")
    await is_answered_once(house, "hello")


async def test_killed_while_the_question_waits(house: Killable) -> None:
    house.world.gates.hold("first/0")
    await house.team.says("ana", "first")
    await house.world.gates.reached("first/0")
    await house.team.says("ben", "hello")
    await house.team.sees("hello", "in line")
    await house.is_killed()
    await house.starts()
    await house.world.gates.open("first/0")
    await is_answered_once(house, "first")
    await is_answered_once(house, "hello")
    assert house.stored("SELECT attempts FROM requests ORDER BY id") == [(1,), (0,)]


async def test_killed_in_the_middle_of_an_answer(house: Killable) -> None:
    house.world.gates.hold("hello/2")
    await house.team.says("ana", "hello")
    await house.team.sees("hello", "You said:")
    await house.is_killed()
    await house.starts()
    await house.world.gates.open("hello/2")
    await is_answered_once(house, "hello")


@pytest.mark.parametrize("applied", [Fault.SILENT, Fault.DONE_SILENT])
async def test_killed_between_the_first_post_and_its_answer(house: Killable, applied: Fault) -> None:
    house.world.gates.hold("hello/1")
    house.world.fails("post", applied)
    await house.team.says("ana", "hello")
    await house.world.until(lambda: bool(house.world.struck), "it is posted")
    await house.is_killed()
    await house.starts()
    await house.world.gates.open("hello/1")
    await is_answered_once(house, "hello")


@pytest.mark.parametrize("applied", [Fault.SILENT, Fault.DONE_SILENT])
async def test_killed_after_the_answer_was_stored_and_before_it_was_shown(house: Killable, applied: Fault) -> None:
    for call in ("post", "update"):
        house.world.fails(call, applied, only=lambda reply: reply.final)
    await house.team.says("ana", "hello")
    await house.world.until(lambda: bool(house.world.struck), "the end is on its way")
    await house.is_killed()
    assert house.stored("SELECT status FROM requests") == [("finished",)]
    house.world.forgets_faults()
    await house.starts()
    await is_answered_once(house, "hello")
    await house.world.until(lambda: house.stored("SELECT state FROM outbox") == [("final",)], "it is settled")


@pytest.mark.fault(34)
async def test_a_clean_stop_hands_the_rest_on_and_counts_no_attempt(house: Killable) -> None:
    for question in ("one", "two"):
        await house.team.elsewhere(channel=question).says("ana", question)
        await house.team.elsewhere(channel=question).reply_to(question)
    house.world.gates.hold("hello/2")
    await house.team.says("ana", "hello")
    message = await house.team.sees("hello", "You said:")
    await house.team.says("ben", "later")
    assert await house.ends() == 0
    assert house.stored("SELECT status, attempts FROM requests ORDER BY id")[2:] == [("waiting", 0), ("waiting", 0)]
    assert house.stored("SELECT count(*) FROM requests WHERE status = 'waiting' AND wait_left_s < 600") == [(2,)]
    await house.starts()
    await house.world.gates.open("hello/2")
    assert (await house.team.reply_to("hello")).parts == (message,)
    await is_answered_once(house, "hello")
    await is_answered_once(house, "later")


async def test_a_kill_gives_those_who_wait_no_time_back(house: Killable) -> None:
    house.world.gates.hold("hello/2")
    await house.team.says("ana", "hello")
    await house.team.sees("hello", "You said:")
    await house.team.says("ben", "later")
    left = "SELECT count(*) FROM requests WHERE status = 'waiting' AND wait_left_s < 599"
    async with asyncio.timeout(20):
        while house.stored(left) != [(1,)]:  # noqa: ASYNC110 -- another process writes it
            await asyncio.sleep(0.05)
    await house.is_killed()
    assert house.stored(left) == [(1,)]
    await house.starts()
    await house.world.gates.open("hello/2")
    await is_answered_once(house, "later")


@pytest.mark.fault(15)
async def test_a_second_instance_is_refused(house: Killable) -> None:
    assert await house.status(house.another()) == EX_CONFIG
    await house.team.asks("ana", "hello")


@pytest.mark.fault(35)
@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_at_random_moments_it_keeps_its_promise(house: Killable, seed: int) -> None:
    chance = random.Random(seed)
    questions = [f"question {number}" for number in range(16)]
    for number, question in enumerate(questions):
        await house.team.elsewhere(channel=f"room-{number % 5}").sends(f"person-{number % 7}", question)
        if number % 3 == 2:
            await asyncio.sleep(chance.uniform(0.0, 0.15))
            await house.is_killed()
            await house.starts()
    for number, question in enumerate(questions):
        room = house.team.elsewhere(channel=f"room-{number % 5}")
        answer = await room.reply_to(question)
        assert len(answer.parts) == 1
        assert len(room.replies_to(question)) == 1
        assert answer.text == f"You said: {question}" or "I was stopped" in answer.text
    assert len(house.world.posted) == len(questions)
