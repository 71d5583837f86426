"""Kills the process at named and at random points, as `test_kills` does, with its database on a PostgreSQL server."""

from pathlib import Path
from random import Random

import pytest

from tests.crash.test_kills import BOTH, LONG, POINTS, sound, time_passes
from tests.support.crash.child_service import Point
from tests.support.crash.killable_service import run_crash_service
from tests.support.crash.random_kills import storm

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = [
    pytest.mark.fault(35),
    pytest.mark.usefixtures("each_database"),
    pytest.mark.parametrize("each_database", ["PostgreSQL"], indirect=True),
]


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        ("inside the transaction that stores it", "slack"),
        ("stored but not acknowledged", "discord"),
        ("posted, its id not stored", "slack"),
        ("inside the transaction of the end", "discord"),
        ("the end stored but not shown", "slack"),
    ],
)
async def test_a_kill_at_this_point_loses_and_doubles_nothing(tmp_path: Path, name: str, platform: str) -> None:
    async with run_crash_service(tmp_path, platform) as setup:
        await setup.start(POINTS[name][0])
        await setup.ask(platform, words=LONG)
        await setup.ask(platform, who=1, where=1)
        await setup.died()
        time_passes(setup)
        await setup.start()
        assert await sound(setup) == (2, 0)


async def test_a_kill_in_a_migration_leaves_a_database_that_the_next_start_makes(tmp_path: Path) -> None:
    async with run_crash_service(tmp_path, "slack", fresh=True) as setup:
        await setup.start(Point("migration.create_table", after=True, times=7), connected=False)
        await setup.died()
        await setup.start()
        await setup.ask("slack")
        assert await sound(setup) == (1, 0)


async def test_kills_at_random_points_lose_and_double_nothing(tmp_path: Path) -> None:
    async with run_crash_service(tmp_path, *BOTH) as setup:
        await storm(setup, Random(1), kills=2)
        await sound(setup)
