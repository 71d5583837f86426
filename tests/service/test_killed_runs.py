"""An answer that was being written or shown when the service was killed twice: it comes as a file, then as an error."""

import pytest

from bot.replies.replies import GIVEN_UP
from bot.types.messages import FinishReason
from tests.support.builders.killable_process import Killable, is_a_file, is_answered_once
from tests.support.fakes.world import Fault

pytest_plugins = ["tests.support.fixtures.killable_process"]
pytestmark = pytest.mark.fault(47)


async def test_killed_twice_in_the_same_answer_it_comes_as_a_file_and_is_not_shown_before(house: Killable) -> None:
    house.world.gates.hold("hello/2")
    await house.team.says("ana", "hello")
    for _ in range(2):
        await house.world.gates.reached("hello/2")
        await house.team.sees("hello", "You said:")
        await house.is_killed()
        await house.starts()
    await house.world.gates.reached("hello/2")
    (shown,) = house.world.posted
    before = list(shown.history)
    await house.world.gates.open("hello/2")
    await is_a_file(house, "hello", "You said: hello")
    assert "You said:" not in "".join(shown.history[len(before) :])
    await house.team.asks("ben", "and me?")


async def test_killed_three_times_in_the_same_answer_it_gives_it_up_with_a_sentence(house: Killable) -> None:
    house.world.gates.hold("hello/2")
    await house.team.says("ana", "hello")
    for _ in range(3):
        await house.world.gates.reached("hello/2")
        await house.is_killed()
        await house.starts()
    answer = await house.team.reply_to("hello")
    assert answer.reason is FinishReason.ERROR
    await is_answered_once(house, "hello", f"⚠️ {GIVEN_UP}")
    await house.team.asks("ben", "and me?")


async def test_killed_twice_before_anything_was_shown_it_comes_as_a_file_in_one_message(house: Killable) -> None:
    house.world.gates.hold("hello/1")
    house.world.fails("post", Fault.SILENT, 2)
    await house.team.says("ana", "hello")
    for times in (1, 2):
        await house.world.until(lambda times=times: len(house.world.struck) == times, "it is posted")  # type: ignore[misc]
        await house.is_killed()
        await house.starts()
    await house.world.gates.open("hello/1")
    await is_a_file(house, "hello", "You said: hello")
    await house.team.asks("ben", "and me?")
    await is_a_file(house, "hello", "You said: hello")


@pytest.mark.parametrize("applied", [Fault.SILENT, Fault.DONE_SILENT])
async def test_killed_twice_while_the_stored_end_is_shown_it_comes_as_a_file(house: Killable, applied: Fault) -> None:
    for call in ("post", "update"):
        house.world.fails(call, applied, 3, only=lambda reply: reply.final)
    await house.team.says("ana", "hello")
    for times in (1, 2):
        await house.world.until(lambda times=times: len(house.world.struck) == times, "the end is on its way")  # type: ignore[misc]
        await house.is_killed()
        assert house.stored("SELECT status, service_runs FROM requests") == [("finished", times)]
        if times == 2:
            house.world.forgets_faults()
        await house.starts()
    await house.world.until(lambda: house.stored("SELECT state FROM outbox") == [("final",)], "it is settled")
    await is_a_file(house, "hello", "You said: hello")


async def test_killed_while_even_the_file_is_shown_it_gives_up_with_a_sentence(house: Killable) -> None:
    for call in ("post", "update"):
        house.world.fails(call, Fault.SILENT, 3, only=lambda reply: reply.final)
    await house.team.says("ana", "hello")
    for times in (1, 2, 3):
        await house.world.until(lambda times=times: len(house.world.struck) == times, "the end is on its way")  # type: ignore[misc]
        await house.is_killed()
        await house.starts()
    house.world.forgets_faults()
    await is_answered_once(house, "hello", f"⚠️ {GIVEN_UP}")
    assert (await house.team.reply_to("hello")).first.reply.attachment is None


async def test_a_clean_stop_while_the_end_cannot_be_shown_does_not_count(house: Killable) -> None:
    for call in ("post", "update"):
        house.world.fails(call, Fault.RETRY, 3, seconds=60, only=lambda reply: reply.final)
    await house.team.says("ana", "hello")
    for times in (1, 2, 3):
        await house.world.until(lambda times=times: len(house.world.struck) == times, "the end is on its way")  # type: ignore[misc]
        assert await house.ends() == 0
        assert house.stored("SELECT status, service_runs FROM requests") == [("finished", 0)]
        if times == 3:
            house.world.forgets_faults()
        await house.starts()
    await is_answered_once(house, "hello")
