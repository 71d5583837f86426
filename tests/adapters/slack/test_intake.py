"""Tests deduplication of repeated Slack events, and the cache of users and channels."""

import asyncio

import pytest

from adapters.slack.inbound.context_deadline import ContextDeadline
from adapters.slack.inbound.users import TTLCache
from bot.types.errors import FatalAdapterError, RetryLater, StorageError
from bot.types.messages import Accepted, Attachment, Event, IncomingCommand, Notice, Outcome, Refused
from tests.support.builders.slack_adapter import SlackAdapterSetup, key_of, run_slack_adapter
from tests.support.fakes.recording_core import RecordingCore
from tests.support.fakes.slack.state import Json
from tests.support.fakes.slack_server import FakeSlack


def send(setup: SlackAdapterSetup, event: Json) -> None:
    """Sends an event that the fake has no method for."""
    body = {"type": "event_callback", "team_id": "T1", "api_app_id": "A1", "event_id": "Ev1", "event": event}
    setup.server.sockets.send("Ev1", "events_api", event["type"], body)


async def test_two_events_of_a_message_are_worked_on_once_at_a_time() -> None:
    core = RecordingCore()
    core.open.clear()
    async with run_slack_adapter(core=core) as setup:
        said = await setup.ana.says(setup.general, "look", mention=True, files={"a.txt": b"x"})
        await setup.server.until(lambda: len(setup.server.deliveries) == 2)
        setup.server.redeliver(said)
        await setup.server.until(lambda: len(setup.server.deliveries) == 3)
        assert not setup.server.acks
        core.open.set()
        await setup.server.until(lambda: len(setup.server.acks) == 3)
        assert len(core.events) == 1


async def test_what_was_not_stored_for_one_event_is_not_for_the_other_and_comes_again() -> None:
    refusing = True

    def says(event: Event) -> Outcome:
        if refusing:
            raise StorageError("The disk is full.")
        return Accepted("request")

    async with FakeSlack() as server:
        server.sockets.scale = 0.03
        async with run_slack_adapter(server, core=RecordingCore(says=says)) as setup:
            await setup.ana.says(setup.general, "hello", mention=True)
            await server.until(lambda: len(server.deliveries) == 4)
            refusing = False
            assert not server.acks
            await setup.core.message()
            await server.until(lambda: len(server.acks) >= 2)
            assert len(setup.core.events) == 1


async def test_a_refused_message_is_refused_in_every_copy() -> None:
    outcomes: list[Outcome] = [Refused("64 questions are waiting already.")]
    core = RecordingCore(says=lambda event: outcomes.pop() if outcomes else Accepted("request"))
    async with run_slack_adapter(core=core) as setup:
        said = await setup.ana.says(setup.general, "hello", mention=True)
        setup.server.redeliver(said)
        await setup.server.until(lambda: len(setup.server.acks) >= 3)
        assert len(core.events) == 1
        await setup.general.until(lambda: setup.general.messages)


@pytest.mark.parametrize("private", [True, False])
async def test_the_answer_to_a_typed_command_is_for_its_giver_unless_it_is_for_all(private: bool) -> None:
    notice = Notice("Here it is.", private, Attachment("chat.md", "# Chat"))
    core = RecordingCore(says=lambda event: notice if isinstance(event, IncomingCommand) else Accepted("request"))
    async with run_slack_adapter(core=core) as setup:
        said = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.ana.says(setup.general, "!export", mention=True, thread=said)
        dm = setup.server.dm(setup.ana)
        await setup.server.until(lambda: [each for each in setup.server.everything if each.files])
        aside = (setup.general.ephemerals if private else setup.general.messages)[0]
        assert (aside.shown, aside.thread_ts) == ("Here it is.", said.ts)
        (filed,) = [each for each in setup.server.everything if each.files]
        assert filed.channel is (dm if private else setup.general)
        await setup.ana.says(dm, "!export")
        await dm.until(lambda: "Here it is." in [each.shown for each in dm.messages])
        assert not dm.ephemerals


async def test_what_the_core_says_is_said_although_slack_is_busy() -> None:
    core = RecordingCore(says=lambda event: Refused("64 questions are waiting already."))
    async with run_slack_adapter(core=core) as setup:
        setup.server.limits.exhaust("chat.postMessage", 0.5)
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.server.until(lambda: len(setup.server.acks) == 2)
        assert not setup.general.messages, "the ack does not wait for it"
        await setup.general.until(lambda: setup.general.messages)
        assert len(setup.general.messages) == 1


@pytest.mark.parametrize("event", ["app_uninstalled", "tokens_revoked"])
async def test_an_app_that_is_removed_ends_at_once(event: str) -> None:
    async with run_slack_adapter() as setup:
        setup.server.refuse_token("account_inactive")
        send(setup, {"type": event})
        with pytest.raises(FatalAdapterError, match="SLACK_BOT_TOKEN"):
            async with asyncio.timeout(5):
                await setup.running


@pytest.mark.fault(44)
@pytest.mark.parametrize(
    "event",
    [
        {"type": "message"},
        {"type": "message", "channel": "C1", "ts": {}, "text": [], "files": 5},
        {"type": "message", "subtype": "message_changed", "channel": "C1", "message": "no"},
        {"type": "message", "subtype": "message_deleted", "channel": "C1"},
        {"type": "app_mention", "user": None, "ts": "nonsense", "channel": "C1"},
        {"type": "assistant_thread_started"},
    ],
)
async def test_a_malformed_event_is_acknowledged_and_costs_nothing(event: Json) -> None:
    async with run_slack_adapter() as setup:
        send(setup, event)
        await setup.server.until(lambda: setup.server.acks)
        assert not setup.core.events
        await setup.ana.says(setup.general, "hello", mention=True)
        assert (await setup.core.message()).key.channel == key_of(setup.general).channel


async def test_an_event_that_cannot_even_be_read_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with run_slack_adapter() as setup:
        send(setup, {"type": "message", "channel": 5})
        await setup.server.until(lambda: setup.server.deliveries)
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.core.message()
        assert "could not be read" in caplog.text
        assert [ack.event_id for ack in setup.server.acks if ack.event_id == "Ev1"] == []


async def test_a_cache_fetches_once_and_keeps_the_value() -> None:
    asked: list[str] = []
    told = asyncio.Event()

    async def fetch(name: str) -> str:
        asked.append(name)
        await told.wait()
        return name.upper()

    cache = TTLCache(fetch, "?")
    waiting = asyncio.gather(*(cache.get("ana") for _ in range(3)))
    late = await ContextDeadline(0.01).limit(cache.get("ana"), "late")
    told.set()
    assert (late, await waiting, await cache.get("ana")) == ("late", ["ANA"] * 3, "ANA")
    assert (asked, cache.cached("ana"), cache.cached("ben")) == (["ana"], "ANA", "?")


async def test_a_cache_does_not_repeat_a_failed_fetch() -> None:
    asked: list[str] = []

    async def fetch(name: str) -> str:
        asked.append(name)
        raise RetryLater(1.0)

    cache = TTLCache(fetch, "?")
    assert [await cache.get("ana") for _ in range(3)] == ["?"] * 3
    assert asked == ["ana"]
    await cache.close()


async def test_a_closed_cache_leaves_no_call_behind() -> None:
    async def fetch(name: str) -> str:
        await asyncio.sleep(60)
        return name

    cache = TTLCache(fetch, "?")
    waiting = asyncio.create_task(cache.get("ana"))
    await asyncio.sleep(0)
    await cache.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
