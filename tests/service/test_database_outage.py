"""Tests a service whose database server does not answer for a while, or is claimed by another instance."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from bot.storage import Storage, postgresql
from bot.types.errors import StorageError
from bot.types.messages import MessageDeleted
from tests.support.builders.service import run_service
from tests.support.fakes.database_relay import DatabaseRelay
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.scripted_platform import ScriptedPlatform

pytest_plugins = ["tests.support.fixtures.databases"]


OUTAGE_S = 6.5
"""Longer than any deadline of an acknowledgement."""


@pytest.mark.fault(37)
async def test_an_outage_acknowledges_and_loses_nothing_and_ends_by_itself(
    tmp_path: Path, relay: DatabaseRelay, url: SecretStr
) -> None:
    async with run_service(tmp_path, database_url=relay.url(url)) as setup:
        await setup.team.asks("ana", "before")
        sessions = setup.platform.calls["since"]  # a new one reads back what it missed
        setup.platform.gates.hold("running/1")
        await setup.team.says("ana", "running")
        await setup.platform.gates.reached("running/1")
        await relay.cut()
        during = await setup.team.sends("ben", "during")
        await setup.platform.gates.open("running/1")
        await asyncio.sleep(OUTAGE_S)
        later = await setup.team.sends("ben", "later")
        assert not {during, later} & setup.platform.outcomes.keys()
        assert not setup.team.replies_to("running")  # its end is not stored yet
        await relay.start()
        for question in ("running", "during", "later"):
            await setup.team.reply_to(question)
        await setup.platform.deliver_again(during)
        await setup.team.asks("ana", "after")
        assert setup.platform.calls["since"] == sessions
        asked = ["before", "running", "during", "later", "after"]
        assert setup.engine.questions() == asked
        for question in asked:
            (answer,) = setup.team.replies_to(question)
            assert answer.text == f"You said: {question}"


async def test_a_question_that_is_deleted_during_an_outage_is_not_answered(
    tmp_path: Path, relay: DatabaseRelay, url: SecretStr
) -> None:
    async with run_service(tmp_path, database_url=relay.url(url)) as setup:
        await setup.team.asks("ana", "before")
        await relay.cut()
        await setup.team.sends("ana", "secret")
        deletion = await setup.platform.send(MessageDeleted(setup.team.key, setup.team.asked["secret"]))
        await asyncio.sleep(1.0)
        await relay.start()
        await setup.platform.outcome(deletion)
        await setup.team.asks("ana", "after")
        assert setup.engine.questions() == ["before", "after"]
        assert len(setup.platform.posted) == 2


@pytest.mark.fault(37)
async def test_a_service_whose_database_never_answers_can_be_stopped(
    tmp_path: Path, relay: DatabaseRelay, url: SecretStr
) -> None:
    """Its connections stay, so that no call of the driver fails by itself."""
    async with ScriptedPlatform() as platform:
        async with run_service(tmp_path, platform, database_url=relay.url(url), ready=False) as setup:
            await platform.connected()
            await setup.team.asks("ana", "before")
            platform.gates.hold("running/1")
            await setup.team.says("ana", "running")
            await platform.gates.reached("running/1")
            await setup.team.says("ana", "waiting")
            relay.hang()
            during = await setup.team.sends("ben", "during")
            await relay.hung.wait()
            setup.service.stop()
            with pytest.raises(StorageError, match="did not answer while Inhouse stopped"):
                await asyncio.wait_for(asyncio.shield(setup.running), 15)
            assert during not in platform.outcomes
            team = setup.team
        await platform.gates.open("running/1")
        async with run_service(tmp_path, platform, database_url=url):
            for question in ("before", "running", "waiting", "during"):
                assert (await team.reply_to(question)).text == f"You said: {question}"


@pytest.mark.parametrize("request_", ["server_encoding", "pg_advisory_xact_lock", "INSERT INTO leases"])
async def test_a_service_whose_database_never_answers_at_the_start_can_be_stopped(
    tmp_path: Path, relay: DatabaseRelay, url: SecretStr, request_: str
) -> None:
    async with run_service(tmp_path, database_url=relay.url(url), ready=False) as setup:
        relay.hang(at=request_)
        await relay.hung.wait()
        setup.service.stop()
        with pytest.raises(StorageError, match="did not answer while Inhouse stopped"):
            await asyncio.wait_for(asyncio.shield(setup.running), 15)


async def test_nothing_is_posted_or_edited_once_another_instance_may_serve(
    tmp_path: Path, relay: DatabaseRelay, url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "LEASE_S", 2.0)
    monkeypatch.setattr(postgresql, "RENEW_S", 0.2)
    async with run_service(tmp_path, database_url=relay.url(url)) as setup:
        setup.platform.gates.hold("one two three/3")
        await setup.team.says("ana", "one two three")
        await setup.team.sees("one two three", "said: one")
        await relay.cut()
        await asyncio.sleep(postgresql.LEASE_S)
        calls = setup.platform.calls["update"] + setup.platform.calls["post"]
        await setup.platform.gates.open("one two three/3")
        await asyncio.sleep(0.5)  # its next text would be shown within some milliseconds
        assert setup.platform.calls["update"] + setup.platform.calls["post"] == calls
        await relay.start()
        assert (await setup.team.reply_to("one two three")).text == "You said: one two three"


async def test_a_service_that_another_host_declared_dead_ends_and_says_once_what_it_could_not_store(
    tmp_path: Path,
    relay: DatabaseRelay,
    url: SecretStr,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(postgresql, "LEASE_S", 0.5)
    monkeypatch.setattr(postgresql, "RENEW_S", 0.1)
    async with (
        ScriptedPlatform() as platform,
        run_service(
            tmp_path,
            platform,
            engine=ScriptedEngine(platform.gates.passing, max_running=3),
            ready=False,
            database_url=relay.url(url),
        ) as setup,
    ):
        await platform.connected()
        for question in ("one", "two", "three"):
            platform.gates.hold(f"{question}/1")
            await setup.team.elsewhere(channel=question).says(f"person {question}", question)
        for question in ("one", "two", "three"):
            await platform.gates.reached(f"{question}/1")
        for question in ("four", "five"):
            await setup.team.says(f"person {question}", question)
        await relay.cut()
        for question in ("one", "two"):
            await platform.gates.open(f"{question}/1")
        other = await Storage.open(tmp_path / "another", url, standby=lambda _: None)
        await relay.start()
        with pytest.raises(StorageError, match="has taken over"):
            await asyncio.wait_for(asyncio.shield(setup.running), 20)
        await other.close()
    lost = [record for record in caplog.records if "has taken over" in record.getMessage()]
    (line,) = [record.getMessage() for record in lost if "question" in record.getMessage()]
    assert line.startswith("What is left of the time of 5 questions could not be stored")
    assert not any("an answer" in record.getMessage() for record in lost)
    assert not any(record.exc_info for record in caplog.records)
