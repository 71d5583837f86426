"""Tests a service whose database server does not answer for a while, or is claimed by another instance."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from bot.storage import Storage, postgresql
from bot.types.errors import StateLocked
from tests.support.builders.service import run_service
from tests.support.fakes.database_relay import DatabaseRelay, run_relay
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.databases"]


@pytest.fixture
async def relay(postgresql: PostgresqlProcess) -> AsyncIterator[DatabaseRelay]:
    async with run_relay(postgresql.socket) as relay:
        yield relay


@pytest.fixture
def url(postgresql: PostgresqlProcess) -> SecretStr:
    """An empty database."""
    return postgresql.new_database()


@pytest.mark.parametrize("seconds", [0.5, 6.5])
async def test_an_outage_acknowledges_and_loses_nothing_and_ends_by_itself(
    tmp_path: Path, relay: DatabaseRelay, url: SecretStr, seconds: float
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
        await asyncio.sleep(seconds)
        assert during not in setup.platform.outcomes
        assert not setup.team.replies_to("running")  # its end is not stored yet
        await relay.start()
        await setup.team.reply_to("running")
        await setup.platform.deliver_again(during)
        await setup.team.reply_to("during")
        await setup.team.asks("ana", "after")
        assert setup.platform.calls["since"] == sessions
        for question in ("before", "running", "during", "after"):
            (answer,) = setup.team.replies_to(question)
            assert answer.text == f"You said: {question}"


async def test_a_service_whose_database_another_one_claimed_ends(
    tmp_path: Path, relay: DatabaseRelay, url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "LEASE_S", 0.5)
    monkeypatch.setattr(postgresql, "RENEW_S", 0.1)
    async with run_service(tmp_path, database_url=relay.url(url), ready=False) as setup:
        await setup.platform.connected()
        await relay.cut()
        other = await Storage.open(tmp_path / "another", url)
        await relay.start()
        with pytest.raises(StateLocked, match="has taken over"):
            await asyncio.wait_for(asyncio.shield(setup.running), 20)
        await other.close()
