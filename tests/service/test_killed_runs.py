"""Tests answers that were running or shown when the service was killed twice: first as a file, then as an error."""

import pytest

from bot.replies.replies import GIVEN_UP
from bot.types.messages import FinishReason
from tests.support.builders.killable_process import Killable, is_a_file, is_answered_once
from tests.support.fakes.scripted_platform import Fault

pytest_plugins = ["tests.support.fixtures.killable_process"]
pytestmark = pytest.mark.fault(47)


async def test_killed_twice_in_the_same_answer_it_comes_as_a_file_and_is_not_shown_before(killable: Killable) -> None:
    killable.platform.gates.hold("hello/2")
    await killable.team.says("ana", "hello")
    for _ in range(2):
        await killable.platform.gates.reached("hello/2")
        await killable.team.sees("hello", "You said:")
        await killable.is_killed()
        await killable.starts()
    await killable.platform.gates.reached("hello/2")
    (shown,) = killable.platform.posted
    before = list(shown.history)
    await killable.platform.gates.open("hello/2")
    await is_a_file(killable, "hello", "You said: hello")
    assert "You said:" not in "".join(shown.history[len(before) :])
    await killable.team.asks("ben", "and me?")


async def test_killed_three_times_in_the_same_answer_it_gives_it_up_with_a_sentence(killable: Killable) -> None:
    killable.platform.gates.hold("hello/2")
    await killable.team.says("ana", "hello")
    for _ in range(3):
        await killable.platform.gates.reached("hello/2")
        await killable.is_killed()
        await killable.starts()
    answer = await killable.team.reply_to("hello")
    assert answer.reason is FinishReason.ERROR
    await is_answered_once(killable, "hello", f"⚠️ {GIVEN_UP}")
    await killable.team.asks("ben", "and me?")


async def test_killed_twice_before_anything_was_shown_it_comes_as_a_file_in_one_message(killable: Killable) -> None:
    killable.platform.gates.hold("hello/1")
    killable.platform.fails("post", Fault.SILENT, 2)
    await killable.team.says("ana", "hello")
    for times in (1, 2):
        await killable.platform.until(lambda times=times: len(killable.platform.struck) == times, "it is posted")  # type: ignore[misc]
        await killable.is_killed()
        await killable.starts()
    await killable.platform.gates.open("hello/1")
    await is_a_file(killable, "hello", "You said: hello")
    await killable.team.asks("ben", "and me?")
    await is_a_file(killable, "hello", "You said: hello")


@pytest.mark.parametrize("applied", [Fault.SILENT, Fault.DONE_SILENT])
async def test_killed_twice_while_the_stored_end_is_shown_it_comes_as_a_file(
    killable: Killable, applied: Fault
) -> None:
    for call in ("post", "update"):
        killable.platform.fails(call, applied, 3, only=lambda reply: reply.final)
    await killable.team.says("ana", "hello")
    for times in (1, 2):
        await killable.struck(times)
        await killable.is_killed()
        assert killable.stored("SELECT status, service_runs FROM requests") == [("finished", times)]
        if times == 2:
            killable.platform.forgets_faults()
        await killable.starts()
    await killable.platform.until(
        lambda: killable.stored("SELECT state FROM outbox") == [("final",)], "it is delivered"
    )
    await is_a_file(killable, "hello", "You said: hello")


async def test_killed_while_even_the_file_is_shown_it_gives_up_with_a_sentence(killable: Killable) -> None:
    for call in ("post", "update"):
        killable.platform.fails(call, Fault.SILENT, 3, only=lambda reply: reply.final)
    await killable.team.says("ana", "hello")
    for times in (1, 2, 3):
        await killable.struck(times)
        await killable.is_killed()
        await killable.starts()
    killable.platform.forgets_faults()
    await is_answered_once(killable, "hello", f"⚠️ {GIVEN_UP}")
    assert (await killable.team.reply_to("hello")).first.reply.attachment is None


async def test_a_clean_stop_while_the_end_cannot_be_shown_does_not_count(killable: Killable) -> None:
    for call in ("post", "update"):
        killable.platform.fails(call, Fault.RETRY, 3, seconds=60, only=lambda reply: reply.final)
    await killable.team.says("ana", "hello")
    for times in (1, 2, 3):
        await killable.struck(times)
        assert await killable.ends() == 0
        assert killable.stored("SELECT status, service_runs FROM requests") == [("finished", 0)]
        if times == 3:
            killable.platform.forgets_faults()
        await killable.starts()
    await is_answered_once(killable, "hello")
