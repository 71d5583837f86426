"""Kills the real process with SIGKILL at named and at random points: nothing is lost, nothing is duplicated.

The fakes of both platforms keep running. `sound` checks at the end: every question has one whole answer where it was
asked (as a file if it was shown during two kills, one error after three), no one was pinged, the database is
consistent, and nothing in it is open.
"""

from pathlib import Path
from random import Random

import pytest

from bot.replies.delivery import VOID
from bot.replies.renderer import INTERRUPTED
from bot.replies.replies import GIVEN_UP
from tests.support.crash.child_service import Point
from tests.support.crash.killable_service import CrashSetup, run_crash_service
from tests.support.crash.platforms import DiscordDriver
from tests.support.crash.random_kills import storm

pytest_plugins = ["tests.support.fixtures.databases"]
pytestmark = pytest.mark.fault(35)

LONG = 600
"""Words of an answer that takes three messages on Discord and two on Slack."""
SEAM_OF = {"update": "{}.update", "mark_delivered": "outbox.mark_delivered"}
BOTH, DISCORD, SLACK = ("discord", "slack"), ("discord",), ("slack",)

POINTS = {
    "before the question is stored": (Point("inbox.ask"), BOTH),
    "inside the transaction that stores it": (Point("inbox.put", after=True), SLACK),
    "stored but not acknowledged": (Point("inbox.ask", after=True), BOTH),
    "before it runs": (Point("inbox.start"), SLACK),
    "running, with nothing written": (Point("inbox.start", after=True), DISCORD),
    "about to post": (Point("outbox.posting", after=True), BOTH),
    "posted, its id not stored": (Point("outbox.posted"), BOTH),
    "between two messages of one answer": (Point("outbox.posting", after=True, times=3), BOTH),
    "a later message posted, its id not stored": (Point("outbox.posted", times=3), BOTH),
    "in the middle of the edits on Discord": (Point("discord.update", after=True, times=2), DISCORD),
    "in the middle of the edits on Slack": (Point("slack.update", after=True, times=2), SLACK),
    "inside the transaction of the end": (Point("inbox.put_final", after=True), DISCORD),
    "the end stored but not shown": (Point("inbox.finish", after=True), BOTH),
    "the end shown but not marked": (Point("outbox.mark_delivered"), BOTH),
    "the first of several messages marked": (Point("outbox.mark_delivered", after=True, times=2), DISCORD),
}

ON_A_SERVER = {
    "inside the transaction that stores it": "slack",
    "stored but not acknowledged": "discord",
    "posted, its id not stored": "slack",
    "inside the transaction of the end": "discord",
    "the end stored but not shown": "slack",
}
"""The points that are tried on PostgreSQL, too, and on which platform."""
KILLS = [
    *(("SQLite", name, platform) for name, (_, platforms) in POINTS.items() for platform in platforms),
    *(("PostgreSQL", name, platform) for name, platform in ON_A_SERVER.items()),
]


async def sound(setup: CrashSetup) -> tuple[int, int]:
    """Asserts that there are no faults; the numbers of answers and of errors."""
    verdict = await setup.ended()
    assert not verdict.faults, f"{verdict}\n{setup.log()}"
    assert verdict.answers + verdict.errors == len(setup.asked)
    return verdict.answers, verdict.errors


def time_passes(setup: CrashSetup) -> None:
    """Advances the clock past Discord's nonce memory."""
    for driver in setup.drivers.values():
        if isinstance(driver, DiscordDriver):
            driver.forget_nonces()


@pytest.mark.usefixtures("each_database")
@pytest.mark.parametrize(("each_database", "name", "platform"), KILLS, indirect=["each_database"])
async def test_a_kill_at_this_point_loses_and_doubles_nothing(tmp_path: Path, name: str, platform: str) -> None:
    async with run_crash_service(tmp_path, platform) as setup:
        await setup.start(POINTS[name][0])
        await setup.ask(platform, words=LONG)
        await setup.ask(platform, who=1, where=1)
        await setup.died()
        time_passes(setup)
        await setup.start()
        await setup.ask(platform, who=2, where=1)
        assert await sound(setup) == (3, 0)


async def test_a_kill_in_the_drain_hands_nothing_over_twice(tmp_path: Path) -> None:
    async with run_crash_service(tmp_path, *BOTH, drain=0) as setup:
        await setup.start(Point("inbox.hand_back", after=True))
        for platform in BOTH:
            await setup.ask(platform, words=LONG)
        await setup.until(lambda: bool(setup.drivers["slack"].said() and setup.drivers["discord"].said()), "it writes")
        setup.terminate()
        await setup.died()
        await setup.start()
        assert await sound(setup) == (2, 0)


async def test_a_kill_while_what_is_owed_is_taken_up_counts_once(tmp_path: Path) -> None:
    async with run_crash_service(tmp_path, *BOTH) as setup:
        await setup.start(Point("outbox.posted", times=2))
        for platform in BOTH:
            await setup.ask(platform)
        await setup.died()
        await setup.start(Point("inbox.recover", after=True), connected=False)
        await setup.died()
        await setup.start()
        assert await sound(setup) == (2, 0)


async def killed(setup: CrashSetup, platform: str, seam: str, kills: int, first: str) -> list[str]:
    """Kills the service `kills` times at this seam during a long answer; then another user asks as often, and it
    starts once more. The final messages of the first answer, once its first message begins with `first`.

    The others ask last, since an answer of theirs could reach the seam before the first one is shown.
    """

    def messages() -> list[str]:
        return [said.text for said in setup.drivers[platform].said() if said.question == setup.asked[0].message_id]

    await setup.start(Point(seam))
    await setup.ask(platform, words=LONG)
    await setup.died()
    for _ in range(kills - 1):
        await setup.start(Point(seam))
        await setup.died()
    for _ in range(kills):
        await setup.ask("slack" if platform == "discord" else "discord")
    await setup.start()
    await setup.until(lambda: bool(messages()) and messages()[0].startswith(first), f"there is {first!r}")
    await setup.settled()
    return messages()


@pytest.mark.fault(47)
@pytest.mark.parametrize("seam", ["update", "mark_delivered"])
@pytest.mark.parametrize("platform", BOTH)
async def test_what_is_shown_at_two_kills_comes_as_a_file_and_the_others_are_served(
    tmp_path: Path, platform: str, seam: str
) -> None:
    async with run_crash_service(tmp_path, *BOTH) as setup:
        _, *others = await killed(setup, platform, SEAM_OF[seam].format(platform), 2, INTERRUPTED)
        assert set(others) <= {VOID}, "what was shown before the file is void"
        assert await sound(setup) == (3, 0)


@pytest.mark.fault(47)
async def test_what_runs_at_three_kills_ends_in_one_error_and_the_others_are_served(tmp_path: Path) -> None:
    async with run_crash_service(tmp_path, *BOTH) as setup:
        first, *_ = await killed(setup, "discord", "inbox.finish", 3, "⚠️")
        assert first == f"⚠️ {GIVEN_UP}"
        assert await sound(setup) == (3, 1)


@pytest.mark.usefixtures("each_database")
@pytest.mark.parametrize(
    ("each_database", "tables"), [("SQLite", 1), ("SQLite", 7), ("PostgreSQL", 7)], indirect=["each_database"]
)
async def test_a_kill_in_a_migration_leaves_a_database_that_the_next_start_makes(tmp_path: Path, tables: int) -> None:
    async with run_crash_service(tmp_path, "slack", fresh=True) as setup:
        await setup.start(Point("migration.create_table", after=True, times=tables), connected=False)
        await setup.died()
        await setup.start()
        await setup.ask("slack")
        assert await sound(setup) == (1, 0)


@pytest.mark.usefixtures("each_database")
@pytest.mark.parametrize(  # bench.kills runs hundreds
    ("each_database", "seed"), [*(("SQLite", seed) for seed in range(8)), ("PostgreSQL", 8)], indirect=["each_database"]
)
async def test_kills_at_random_points_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    async with run_crash_service(tmp_path, *BOTH) as setup:
        await storm(setup, chance, kills=chance.choice((1, 1, 2)))
        await sound(setup)
