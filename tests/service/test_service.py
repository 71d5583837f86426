"""Tests the service as a whole: one answer per message under faults of the platform and the storage."""

from pathlib import Path

import pytest

from bot.platforms.adapter import Limits
from bot.storage import Inbox
from bot.types.errors import StorageError
from bot.types.messages import Accepted, FinishReason, Refused
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_platform import Fault
from tests.support.fakes.team import Team

pytest_plugins = ["tests.support.fixtures.service"]


async def test_a_question_is_answered_once_in_one_message(setup: ServiceSetup, team: Team) -> None:
    answer = await team.asks("ana", "hello there")
    assert answer.text == "You said: hello there"
    assert len(setup.platform.posted) == 1
    assert answer.reason is FinishReason.STOP


@pytest.mark.fault(1)
async def test_an_event_that_comes_three_times_is_answered_once(setup: ServiceSetup, team: Team) -> None:
    number = await team.sends("ana", "hello")
    await team.reply_to("hello")
    assert [await setup.platform.deliver_again(number) for _ in range(2)] == [Accepted(), Accepted()]
    await team.asks("ana", "next")
    assert setup.engine.questions() == ["hello", "next"]
    assert len(setup.platform.posted) == 2


@pytest.mark.fault(32)
async def test_a_full_queue_refuses_at_once_and_stores_nothing(tmp_path: Path) -> None:
    async with run_service(tmp_path, queue_size=2, per_user=2) as setup:
        setup.platform.gates.hold("one/0")
        await setup.team.says("ana", "one")
        await setup.platform.gates.reached("one/0")
        for who in ("ben", "cleo"):
            assert isinstance(await setup.team.says(who, f"from {who}"), Accepted)
        outcome = await setup.team.says("dan", "from dan")
        assert outcome == Refused("2 questions are waiting already, more than I take; try again soon.")
        assert rows(setup.settings.state_dir, "SELECT 1 FROM turns WHERE text = 'from dan'") == []
        assert rows(setup.settings.state_dir, "SELECT count(*) FROM requests") == [(3,)]
        await setup.platform.gates.open("one/0")
        await setup.team.reply_to("from cleo")
        await setup.team.asks("dan", "from dan again")


@pytest.mark.fault(42)
async def test_a_flood_of_one_person_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    async with run_service(tmp_path, per_user=3) as setup:
        for number in range(4):
            setup.platform.gates.hold(f"busy {number}/0")
            await setup.team.elsewhere(channel=f"busy-{number}").says(f"person-{number}", f"busy {number}")
            await setup.platform.gates.reached(f"busy {number}/0")
        flood = [
            await setup.team.elsewhere(channel=f"flood-{number}").says("eve", f"flood {number}") for number in range(50)
        ]
        assert sum(isinstance(outcome, Accepted) for outcome in flood) == 3
        await setup.team.says("ana", "hello")
        await setup.platform.gates.open("busy 0/0")
        await setup.team.reply_to("hello")
        asked = setup.engine.questions()
        assert sum(question.startswith("flood") for question in asked[: asked.index("hello")]) <= 1
        for number in range(1, 4):
            await setup.platform.gates.open(f"busy {number}/0")


async def test_what_could_not_be_stored_is_not_acknowledged_and_served_later(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> bool:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(Inbox, "ask", full)
        number = await team.sends("ana", "hello")
        await setup.platform.until(lambda: number in setup.platform.errors, "it is not acknowledged")
    assert number not in setup.platform.outcomes
    assert isinstance(await setup.platform.deliver_again(number), Accepted)
    assert (await team.reply_to("hello")).text == "You said: hello"


async def test_the_end_of_an_answer_is_stored_as_soon_as_storage_works_again(
    setup: ServiceSetup, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, failures = Inbox.finish, [StorageError("The disk is full.")]

    async def failing(*args: object, **more: object) -> None:
        if failures:
            raise failures.pop()
        await finish(*args, **more)  # type: ignore[arg-type]  # same arguments

    monkeypatch.setattr(Inbox, "finish", failing)
    assert (await team.asks("ana", "hello")).text == "You said: hello"
    assert rows(setup.settings.state_dir, "SELECT status FROM requests") == [("finished",)]


async def test_a_lost_connection_in_the_middle_of_an_answer_costs_nothing(setup: ServiceSetup, team: Team) -> None:
    setup.platform.gates.hold("hello/1")
    await team.says("ana", "hello")
    message = await team.sees("hello", "You")
    setup.platform.cut()
    await setup.platform.gates.open("hello/1")
    answer = await team.reply_to("hello")
    assert answer.parts == (message,)
    assert answer.text == "You said: hello"


async def test_one_channel_that_must_wait_does_not_hold_up_another(setup: ServiceSetup, team: Team) -> None:
    slow, quick = team.elsewhere(channel="slow"), team.elsewhere(channel="quick")
    setup.platform.fails("post", Fault.RETRY, seconds=1.0, only=lambda reply: reply.key == slow.key)
    await slow.says("ana", "slowly")
    await setup.platform.until(lambda: bool(setup.platform.struck), "it must wait")
    await quick.asks("ben", "quickly")
    assert slow.replies_to("slowly") == []
    await slow.reply_to("slowly")
    assert len(setup.platform.posted) == 2


async def test_a_channel_where_the_bot_may_not_write_is_tried_once_and_served_on(
    setup: ServiceSetup, team: Team
) -> None:
    closed = team.elsewhere(channel="closed")
    setup.platform.fails("post", Fault.REJECTED, 100, only=lambda reply: reply.key == closed.key)
    await closed.says("ana", "hello")
    await team.asks("ben", "and here?")
    await setup.platform.until(
        lambda: rows(setup.settings.state_dir, "SELECT dropped FROM outbox WHERE state = 'dropped'") != [], "on record"
    )
    assert setup.platform.struck == [Fault.REJECTED]


async def test_a_long_answer_comes_in_ordered_parts(tmp_path: Path) -> None:
    async with run_service(tmp_path, limits=Limits(200, 0.0)) as setup:
        words = [f"word-{number}" for number in range(300)]
        setup.engine.answers("long", " ".join(words))
        answer = await setup.team.asks("ana", "long")
        assert len(answer.parts) > 10
        assert answer.text.split() == words
        assert all(len(part.text) <= 200 for part in answer.parts)
        assert [len(part.buttons) for part in answer.parts] == [3] + [0] * (len(answer.parts) - 1)
