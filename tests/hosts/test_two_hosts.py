"""Tests two hosts that serve on one database: each question is answered once, by whichever host can begin."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bot.storage import Storage
from bot.types.messages import Accepted, FinishReason, Notice, Refused
from tests.support.builders.databases import CHOSEN
from tests.support.builders.hosts import TwoHosts, ask_and_hold, channel_of, run_host, run_two_hosts
from tests.support.builders.storage_rows import rows
from tests.support.fakes.database_relay import DatabaseRelay, run_relay
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = [
    pytest.mark.usefixtures("each_database"),
    pytest.mark.parametrize("each_database", ["PostgreSQL"], indirect=True),
]


@pytest.fixture
async def hosts(each_database: None, tmp_path: Path) -> AsyncIterator[TwoHosts]:
    """Two hosts that write one answer at a time."""
    async with run_two_hosts(tmp_path) as hosts:
        yield hosts


async def test_both_write_answers_and_each_question_is_answered_once(hosts: TwoHosts) -> None:
    questions = [f"question {number}" for number in range(8)]
    await ask_and_hold(hosts, *questions[:2])  # each event reaches both hosts
    for question in questions[2:]:
        await channel_of(hosts.team, question).says(f"person-{question}", question)
    for question in questions[:2]:
        await hosts.platform.gates.open(f"{question}/1")
    for question in questions:
        assert (await channel_of(hosts.team, question).reply_to(question)).text == f"You said: {question}"
    assert hosts.answered() == dict.fromkeys(questions, 1)
    assert len(hosts.platform.posted) == len(questions)
    assert hosts.first.engine.asked
    assert hosts.second.engine.asked


async def test_after_an_outage_each_host_has_time_to_renew_its_lease(
    tmp_path: Path, relay: DatabaseRelay, postgresql: PostgresqlProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.storage.postgresql.LEASE_S", 4.5)
    monkeypatch.setattr("bot.storage.postgresql.RENEW_S", 0.3)
    monkeypatch.setattr("bot.storage.outage.MAX_PAUSE_S", 0.1)  # as short as the lease
    url = CHOSEN.url(tmp_path)
    assert url is not None
    async with AsyncExitStack() as stack:
        later = await stack.enter_async_context(run_relay(postgresql.socket))
        platform = await stack.enter_async_context(ScriptedPlatform())
        first = await stack.enter_async_context(run_host(tmp_path, "first", platform, database_url=relay.url(url)))
        second = await stack.enter_async_context(run_host(tmp_path, "second", platform, database_url=later.url(url)))
        await TwoHosts(first, second).acquainted(2)
        await relay.cut()
        await later.cut()
        await asyncio.sleep(5.5)
        await relay.start()
        await asyncio.sleep(0.5)
        await later.start()
        await asyncio.sleep(2.0)
        assert not first.running.done()
        assert not second.running.done()
        await first.team.asks("ana", "hello")


async def test_a_waiting_question_moves_to_a_host_that_starts_later_into_the_same_message(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        platform = await stack.enter_async_context(ScriptedPlatform())
        first = await stack.enter_async_context(run_host(tmp_path, "first", platform))
        team = first.team
        platform.gates.hold("one/1")
        await channel_of(team, "one").says("ana", "one")
        await platform.gates.reached("one/1")
        waiting = channel_of(team, "two")
        await waiting.says("ben", "two")
        post = await waiting.sees("two", "1st in line")
        second = await stack.enter_async_context(run_host(tmp_path, "second", platform))
        answer = await waiting.reply_to("two")
        assert (answer.text, answer.parts) == ("You said: two", (post,))
        assert second.engine.questions() == ["two"]
        await platform.gates.open("one/1")
        await channel_of(team, "one").reply_to("one")
        assert first.engine.questions() == ["one"]
        assert len(platform.posted) == 2


@pytest.mark.fault(67)
async def test_a_stop_reaches_the_host_that_writes_the_answer(hosts: TwoHosts) -> None:
    hosts.tells(hosts.first)
    await ask_and_hold(hosts, "one", "two")
    other = hosts.first if hosts.second.engine.running_now() == {"two"} else hosts.second
    assert other.engine.running_now() == {"one"}
    team = channel_of(hosts.tells(other), "two")
    assert await team.command("stop") == Notice("Stopped.")
    answer = await team.reply_to("two")
    assert answer.reason is FinishReason.ABORT
    assert len(hosts.posts("two")) == 1


@pytest.mark.fault(67)
async def test_a_stop_reaches_the_host_where_the_question_waits(hosts: TwoHosts) -> None:
    hosts.tells(hosts.first)
    await ask_and_hold(hosts, "one", "two")
    waiting = channel_of(hosts.team, "two")
    await waiting.says("cleo", "three")  # goes to the second host, where its conversation is
    team = channel_of(hosts.tells(hosts.first), "two")
    assert await team.command("stop", who="cleo") == Notice("Stopped.")
    assert (await team.reply_to("three")).reason is FinishReason.ABORT
    await hosts.platform.gates.open("two/1")
    await team.reply_to("two")
    assert hosts.answered() == {"one": 1, "two": 1}


@pytest.mark.fault(67)
async def test_a_question_that_is_edited_elsewhere_offers_a_rerun(hosts: TwoHosts) -> None:
    hosts.tells(hosts.first)
    await ask_and_hold(hosts, "one", "two")
    team = channel_of(hosts.tells(hosts.first), "two")
    await team.edits("two", "two, please", who="person-two-1")
    await asyncio.sleep(1.2)  # the other host looks at least once
    await hosts.platform.gates.open("two/1")
    answer = await team.reply_to("two")
    assert "rerun" in answer.first.buttons


@pytest.mark.fault(6)
async def test_an_older_edit_that_another_host_gets_later_changes_nothing(hosts: TwoHosts) -> None:
    hosts.tells(hosts.first)
    await ask_and_hold(hosts, "one", "two")
    team = channel_of(hosts.team, "two")
    await team.says("cleo", "three")
    hosts.tells(hosts.second)
    await team.edits("three", "the newer one", who="cleo", at=2.0)
    hosts.tells(hosts.first)
    await team.edits("three", "the older one", who="cleo", at=1.0)
    await hosts.platform.gates.open("two/1")
    assert (await team.reply_to("the newer one")).text == "You said: the newer one"


@pytest.mark.fault(67)
async def test_a_question_that_is_deleted_elsewhere_is_not_answered(hosts: TwoHosts) -> None:
    hosts.tells(hosts.first)
    await ask_and_hold(hosts, "one", "two")
    waiting = channel_of(hosts.team, "two")
    await waiting.says("cleo", "three")
    team = channel_of(hosts.tells(hosts.first), "two")
    await team.deletes("three")
    await team.deletes("two")
    assert (await team.reply_to("two")).reason is FinishReason.ABORT
    await team.asks("dan", "four")
    assert "three" not in hosts.answered()


@pytest.mark.fault(67)
async def test_what_is_forgotten_elsewhere_is_stopped(hosts: TwoHosts) -> None:
    hosts.tells(hosts.first)
    await ask_and_hold(hosts, "one", "two")
    team = channel_of(hosts.tells(hosts.first), "two")
    assert isinstance(await team.command("forget", "all"), Notice)
    assert (await team.reply_to("two")).reason is FinishReason.ABORT
    answer = await team.asks("dan", "four")
    (engine,) = [host.engine for host in (hosts.first, hosts.second) if "four" in host.engine.questions()]
    assert [turn.text for turn in engine.prompt_of("four").prompt.turns] == ["four"]
    assert answer.text == "You said: four"


async def test_a_conversation_is_answered_in_order_over_both_hosts(hosts: TwoHosts) -> None:
    questions = [f"question {number}" for number in range(6)]
    for number, question in enumerate(questions):
        await hosts.tells((hosts.first, hosts.second)[number % 2]).says(f"person-{number}", question)
    answers = [await hosts.team.reply_to(question) for question in questions]
    order = [post.reply.question_id for post in hosts.platform.posted]
    assert order == [hosts.team.asked[question] for question in questions] or len(order) == len(questions)
    assert [answer.text for answer in answers] == [f"You said: {question}" for question in questions]
    assert hosts.answered() == dict.fromkeys(questions, 1)
    last = next(host.engine for host in (hosts.first, hosts.second) if questions[-1] in host.engine.questions())
    read = [turn.text for turn in last.prompt_of(questions[-1]).prompt.turns]
    assert read == [text for question in questions for text in (question, f"You said: {question}")][:-1]


async def test_places_count_the_questions_and_the_slots_of_both_hosts(hosts: TwoHosts) -> None:
    await ask_and_hold(hosts, "one", "two")
    for number, question in enumerate(("three", "four", "five", "six")):
        await channel_of(hosts.tells((hosts.first, hosts.second)[number % 2]), question).says(f"p-{number}", question)
    for place, question in zip(("1st", "2nd", "3rd", "4th"), ("three", "four", "five", "six"), strict=True):
        await channel_of(hosts.team, question).sees(question, f"{place} in line")
    for question in ("one", "two"):
        await hosts.platform.gates.open(f"{question}/1")
    for question in ("three", "four", "five", "six"):
        await channel_of(hosts.team, question).reply_to(question)


async def test_the_limit_of_a_person_counts_over_both_hosts(tmp_path: Path) -> None:
    async with run_two_hosts(tmp_path, per_user=2) as hosts:
        await ask_and_hold(hosts, "one", "two")
        for number, host in enumerate((hosts.first, hosts.second)):
            await channel_of(hosts.tells(host), f"more-{number}").says("ana", f"more {number}")
        queues = [host.live_state.queue for host in (hosts.first, hosts.second)]
        await hosts.platform.until(
            lambda: all(len(queue.waiting()) == 2 for queue in queues), "both hosts know what waits"
        )
        for host in (hosts.first, hosts.second):
            outcome = await channel_of(hosts.tells(host), "too-much").says("ana", "too much")
            assert outcome == Refused("You already have 2 questions waiting here; ask again when one is answered.")
        for question in ("one", "two"):
            await hosts.platform.gates.open(f"{question}/1")
        for number in range(2):
            await channel_of(hosts.team, f"more-{number}").reply_to(f"more {number}")


@pytest.mark.fault(63)
async def test_a_host_that_stops_lets_the_other_finish_at_once(hosts: TwoHosts) -> None:
    await ask_and_hold(hosts, "one", "two")
    writes = next(host for host in (hosts.first, hosts.second) if host.engine.running_now() == {"two"})
    other = hosts.first if writes is hosts.second else hosts.second
    team = channel_of(hosts.team, "two")
    await hosts.platform.gates.open("one/1")
    writes.service.stop()
    writes.service.stop()  # no time to finish the answer
    await writes.running
    await other.platform.gates.reached("two/1")
    assert other.engine.running_now() == {"two"}
    await hosts.platform.gates.open("two/1")
    assert (await team.reply_to("two")).text == "You said: two"
    assert len(hosts.posts("two")) == 1


async def test_a_host_without_an_engine_hands_all_to_the_worker(tmp_path: Path) -> None:
    async with (
        ScriptedPlatform() as platform,
        run_host(tmp_path, "worker", platform, roles=("worker",)) as worker,
        run_host(tmp_path, "front", platform, ready=False, roles=("adapters", "web")) as front,
    ):
        await TwoHosts(front, worker).acquainted(1)
        questions = [f"question {number}" for number in range(4)]
        for number, question in enumerate(questions):
            await channel_of(front.team, question).says(f"person-{number}", question)
        for question in questions:
            assert (await channel_of(front.team, question).reply_to(question)).text == f"You said: {question}"
        assert sorted(worker.engine.questions()) == questions
        assert front.engine.asked == []
        assert front.engine.loads == []
        assert front.live_state.unready("") == ""
        assert worker.live_state.unready("") == ""
        assert len(platform.posted) == 4


@pytest.mark.fault(66)
async def test_a_lost_notification_costs_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "on_wake", lambda *_: None)
    async with run_two_hosts(tmp_path) as hosts:
        hosts.tells(hosts.first)
        await ask_and_hold(hosts, "one", "two")
        assert isinstance(await channel_of(hosts.team, "two").says("ben", "three"), Accepted)
        team = channel_of(hosts.tells(hosts.first), "two")
        await team.command("stop", who="ben")
        assert (await team.reply_to("three")).reason is FinishReason.ABORT


@pytest.mark.parametrize(
    "left",
    [
        "status = 'waiting', service_runs = 0",
        "status = 'running', taker = host",
        "status = 'running', taker = (SELECT name FROM hosts WHERE name <> host)",
    ],
    ids=["waits", "runs", "is taken"],
)
@pytest.mark.fault(65)
async def test_a_request_that_its_host_does_not_know_is_answered_into_its_message(
    hosts: TwoHosts, tmp_path: Path, left: str
) -> None:
    hosts.tells(hosts.first)
    team = channel_of(hosts.team, "one")
    post = (await team.asks("ana", "one")).first
    rows(tmp_path, f"UPDATE requests SET {left}, finished_at = NULL")
    await hosts.platform.until(lambda: hosts.answered() == {"one": 2}, "it is answered again")
    await team.asks("ben", "two")  # its conversation is not blocked
    assert len(hosts.posts("one")) == 1
    assert post.text == "You said: one"
    assert rows(tmp_path, "SELECT DISTINCT status FROM requests") == [("finished",)]
