"""Tests faults of events and acknowledgements on Slack with the real service: one answer each, and no pings."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.pool import Pool

from adapters.slack.socket.session import SocketTiming
from tests.support.builders.platform_services import only_asked
from tests.support.builders.slack_service import answered_once, run_slack_service
from tests.support.builders.storage_rows import listening, rows
from tests.support.fakes.slack_server import FakeSlack, Message

pytest_plugins = ["tests.support.fixtures.slack"]


async def acknowledged(slack_server: FakeSlack, *messages: Message) -> None:
    """Asserts that all envelopes of these messages (`message` and `app_mention`) were acknowledged in time."""
    events = _events_of(slack_server, *messages)
    assert len(events) == 2 * len(messages)
    await slack_server.until(lambda: events == {ack.event_id for ack in slack_server.acks if not ack.late} & events)
    assert not [ack for ack in slack_server.acks if ack.late and ack.event_id in events]


def _events_of(slack_server: FakeSlack, *messages: Message) -> set[str]:
    """The event ids of these messages' creation."""
    told = {message.ts for message in messages}
    return {each.event_id for each in slack_server.sockets.envelopes if each.payload.get("event", {}).get("ts") in told}


@pytest.mark.fault(1)
async def test_the_same_envelope_three_times_is_answered_once(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        slack_server.redeliver(question)
        slack_server.redeliver(question, "app_mention")
        await answered_once(setup, question)
        slack_server.redeliver(question)
        await slack_server.until(
            lambda: len([ack for ack in slack_server.acks if ack.what in ("message", "app_mention")]) >= 5
        )
        await only_asked(setup, "hello")
        await answered_once(setup, question)
    async with run_slack_service(tmp_path, slack_server, earlier=setup) as again:
        slack_server.redeliver(question)
        slack_server.redeliver(question, "app_mention")
        await slack_server.until(lambda: len([ack for ack in slack_server.acks if ack.attempt]) == 5)
        await only_asked(again)
        await answered_once(again, question)


@pytest.mark.fault(2)
async def test_a_mention_comes_as_two_events_and_its_changes_are_no_questions(
    tmp_path: Path, slack_server: FakeSlack
) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        question = await setup.ana.says(setup.general, "hello https://example.com", mention=True)
        slack_server.store.change(question, question.versions[-1], edited=False)  # a preview was added
        await answered_once(setup, question)
        await acknowledged(slack_server, question)
        await slack_server.until(lambda: any(ack.what == "message.message_changed" for ack in slack_server.acks))
        assert len(setup.engine.questions()) == 1


@pytest.mark.fault(3)
async def test_a_kill_after_the_insert_and_before_the_ack_costs_nothing(
    tmp_path: Path, slack_server: FakeSlack
) -> None:
    slack_server.sockets.deaf_to_acks = True
    async with run_slack_service(tmp_path, slack_server) as setup:
        setup.gates.hold("hello/0")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.gates.reached("hello/0")
        await setup.dies()
    slack_server.sockets.deaf_to_acks = False
    async with run_slack_service(tmp_path, slack_server, earlier=setup) as again:
        await answered_once(again, question)
        slack_server.clock.advance(60)
        await acknowledged(slack_server, question)
        await only_asked(again, "hello")
        await answered_once(again, question)


@pytest.mark.fault(4)
async def test_a_kill_before_the_insert_costs_nothing(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        with closing(sqlite3.connect(tmp_path / "state" / "inhouse.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            question = await setup.ana.says(setup.general, "hello", mention=True)
            await slack_server.until(lambda: slack_server.log.count("users.info") == 2)
            await setup.dies()
        assert not slack_server.acks
    async with run_slack_service(tmp_path, slack_server, earlier=setup) as again:
        await slack_server.until(lambda: len(slack_server.deliveries) >= 4)  # at once
        await answered_once(again, question)
        await acknowledged(slack_server, question)


@pytest.mark.fault(5)
async def test_a_full_disk_acknowledges_nothing_and_what_was_said_is_served_later(
    tmp_path: Path, slack_server: FakeSlack, caplog: pytest.LogCaptureFixture
) -> None:
    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.cursor().execute("PRAGMA max_page_count = 60")

    with listening(Pool, "connect", limit):
        async with run_slack_service(tmp_path, slack_server) as setup:
            files = {"huge.txt": b"word " * 39_000}
            question = await setup.ana.says(setup.general, "look", mention=True, files=files)
            await slack_server.until(lambda: "is full: free some space" in caplog.text)
            assert not slack_server.acks
    async with run_slack_service(tmp_path, slack_server, earlier=setup) as again:
        slack_server.clock.advance(60)
        await again.answer_to(question)
        assert len(again.general.messages) == 1
        await acknowledged(slack_server, question)


@pytest.mark.fault(37)
@pytest.mark.parametrize("seconds", [1.0, 6.5])
async def test_a_database_that_is_locked_for_a_while_loses_nothing(
    tmp_path: Path, slack_server: FakeSlack, seconds: float
) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        with closing(sqlite3.connect(tmp_path / "state" / "inhouse.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            question = await setup.ana.says(setup.general, "hello", mention=True)
            await asyncio.sleep(seconds)
            assert not slack_server.acks
            other.rollback()
        slack_server.clock.advance(60 if seconds > 3 else 0)
        await answered_once(setup, question)
        await acknowledged(slack_server, question)
        attempts = {ack.attempt for ack in slack_server.acks if ack.event_id in _events_of(slack_server, question)}
        assert attempts == ({0} if seconds < 3 else {2})


@pytest.mark.fault(13)
async def test_a_refresh_under_load_loses_nothing(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server, per_user=100) as setup:
        questions: list[Message] = []
        for opened in range(2, 5):
            for _ in range(4):
                questions.append(await setup.ana.says(setup.general, f"number {len(questions)}", mention=True))
            await slack_server.sockets.disconnect("refresh_requested", closes_after=0.3)
            questions.append(await setup.ben.says(setup.general, f"number {len(questions)}", mention=True))
            await _opened(slack_server, opened)
        await answered_once(setup, *questions)
        await acknowledged(slack_server, *questions)


@pytest.mark.fault(14)
async def test_a_half_open_socket_loses_nothing(tmp_path: Path, slack_server: FakeSlack) -> None:
    timing = SocketTiming(ping=2.0, idle=0.5, watch=0.05, hello=0.5, retry=0.05, max_retry=0.2)
    slack_server.sockets.ping_s = 0.1
    async with run_slack_service(tmp_path, slack_server, timing=timing) as setup:
        slack_server.freeze()
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await _opened(slack_server, 2)
        slack_server.freeze(False)
        slack_server.clock.advance(60)
        await answered_once(setup, question)


@pytest.mark.fault(21)
async def test_a_channel_that_forbids_writing_delays_no_other(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        closed = slack_server.channel("announcements")
        closed.read_only = True
        await setup.ana.says(closed, "hello", mention=True)
        question = await setup.ben.says(setup.general, "hello there", mention=True)
        await answered_once(setup, question)
        await slack_server.until(lambda: len(setup.engine.questions()) == 2)
        refused = [
            call for call in slack_server.calls if call.error == "restricted_action" and call.method.startswith("chat.")
        ]
        assert len(refused) <= 2, "one try to stream and one to post at most"


@pytest.mark.fault(31)
async def test_a_question_that_is_deleted_stops_its_answer_and_is_forgotten(
    tmp_path: Path, slack_server: FakeSlack
) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        setup.engine.answers("a secret", "this is the whole answer")
        setup.gates.hold("a secret/2")
        question = await setup.ana.says(setup.general, "a secret", mention=True)
        await setup.general.until(lambda: setup.after(question))
        await setup.ana.deletes(question)
        assert question.tombstone
        await slack_server.until(lambda: slack_server.deliveries[-1].what == "message.message_changed")
        gone = [each for each in slack_server.deliveries if each.what == "message.message_changed"]
        await slack_server.until(lambda: gone[-1].event_id in [ack.event_id for ack in slack_server.acks])
        await setup.gates.open("a secret/2")
        other = await setup.ben.says(setup.general, "hello", mention=True)
        await setup.answer_to(other)
        assert "whole" not in setup.after(question)[0].shown
        more = await setup.ben.says(setup.general, "what was that?", mention=True, thread=question.ts)
        await setup.server.until(lambda: setup.answers_to(more))
        assert "a secret" not in str(setup.engine.prompt_of("what was that?").prompt.turns)


async def test_a_bare_stop_in_a_thread_stops_its_answer(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        setup.engine.answers("hello", "this is the whole answer")
        setup.gates.hold("hello/2")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.gates.reached("hello/2")
        await setup.ana.says(setup.general, "stop", thread=question)
        assert "whole" not in await setup.answer_to(question)
        await setup.general.until(lambda: setup.general.ephemerals)
        assert [each.shown for each in setup.general.ephemerals] == ["Stopped."]


async def test_messages_that_come_while_it_all_restarts_are_each_answered_once(
    tmp_path: Path, slack_server: FakeSlack
) -> None:
    questions: list[Message] = []
    async with run_slack_service(tmp_path, slack_server, per_user=100) as setup:
        for number in range(3):
            questions.append(await setup.ana.says(setup.general, f"number {number}", mention=True))
        await setup.answer_to(questions[0])
    for _ in range(2):
        questions.append(await setup.ana.says(setup.general, f"away {len(questions)}", mention=True))
        async with run_slack_service(tmp_path, slack_server, earlier=setup, per_user=100) as setup:
            questions.append(await setup.ana.says(setup.general, f"back {len(questions)}", mention=True))
            await asyncio.sleep(0.1)
    async with run_slack_service(tmp_path, slack_server, earlier=setup, per_user=100) as last:
        await answered_once(last, *questions)
        assert rows(tmp_path / "state", "SELECT count(*) FROM requests") == [(len(questions),)]


async def _opened(slack_server: FakeSlack, number: int) -> None:
    """Waits until `number` sockets were opened and one of them works."""
    await slack_server.until(lambda: slack_server.sockets.opened >= number and slack_server.sockets.online)
