"""Tests two instances on one PostgreSQL database: the standby takes over, and nothing is lost or doubled."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.crash.test_kills import BOTH, LONG, sound
from tests.support.crash.killable_service import CrashSetup, run_crash_service

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = [
    pytest.mark.usefixtures("each_database"),
    pytest.mark.parametrize("each_database", ["PostgreSQL"], indirect=True),
]

LEASE_S = 3.0


@pytest.fixture
async def pair(each_database: None, tmp_path: Path) -> AsyncIterator[tuple[CrashSetup, CrashSetup]]:
    """An instance that serves, and its standby."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    async with run_crash_service(tmp_path / "first", *BOTH, standby=True, lease_s=LEASE_S) as first:
        second = first.beside(tmp_path / "second")
        await first.start()
        await second.stand_by()
        yield first, second
        await second.close()


async def asked(setup: CrashSetup) -> None:
    """A long question on each platform, whose answers have begun."""
    for platform in BOTH:
        await setup.ask(platform, words=LONG)
    await setup.until(lambda: all(driver.said() for driver in setup.drivers.values()), "it writes")


@pytest.mark.fault(35)
async def test_a_standby_finishes_the_answers_of_an_instance_that_was_killed(
    pair: tuple[CrashSetup, CrashSetup],
) -> None:
    first, second = pair
    await asked(first)
    await first.kill()
    for platform in BOTH:
        await second.ask(platform, who=1, where=1)  # while nobody serves
    await second.serves()
    await second.ask("slack", who=2, where=1)
    assert await sound(second) == (5, 0)


async def test_an_instance_that_was_stopped_hands_over_at_once_and_may_become_the_standby(
    pair: tuple[CrashSetup, CrashSetup],
) -> None:
    first, second = pair
    await asked(first)
    await first.stop()
    async with asyncio.timeout(LEASE_S * 5):
        await second.serves()
    await first.stand_by()
    await second.ask("discord", who=1)
    await second.settled()
    await second.stop()
    await first.serves()
    await first.ask("slack", who=1)
    assert await sound(first) == (4, 0)


async def test_a_standby_is_stopped_without_having_served(pair: tuple[CrashSetup, CrashSetup]) -> None:
    first, second = pair
    await second.stop()
    await first.ask("slack")
    assert await sound(first) == (1, 0)


async def test_an_instance_that_was_suspended_writes_nothing_any_more_and_ends(
    pair: tuple[CrashSetup, CrashSetup],
) -> None:
    first, second = pair
    await asked(first)
    first.send(signal.SIGSTOP)
    await second.serves()
    await second.ask("slack", who=1, where=1)
    first.send(signal.SIGCONT)
    assert await first.status() == 1  # systemd starts it again, as the standby
    assert "has taken over its answers" in first.log()
    assert await sound(second) == (3, 0)
