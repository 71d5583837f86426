"""The real process, killed by SIGKILL at named and at random points: nothing is lost, nothing comes twice.

The fakes of both platforms live on, as platforms do. What a house checks in the end (`sound`): every question has
exactly one whole answer (or one error, where it ran at two kills) where it was asked, nobody was pinged, the database
is sound, and nothing is left open in it.
"""

from pathlib import Path
from random import Random

import pytest

from tests.crash_child import Point
from tests.crash_house import open_house
from tests.crash_storm import storm
from tests.crash_towns import DiscordTown

pytestmark = pytest.mark.fault(35)

LONG = 600
"""Words of an answer in three messages on Discord and two on Slack."""
PLATFORMS = ("discord", "slack")

POINTS = {
    "before the question is stored": Point("inbox.accept"),
    "inside the transaction that stores it": Point("inbox.add", after=True),
    "stored but not acknowledged": Point("inbox.accept", after=True),
    "before it runs": Point("inbox.start"),
    "running, with nothing written": Point("inbox.start", after=True),
    "about to post": Point("outbox.posting", after=True),
    "posted, its id not stored": Point("outbox.posted"),
    "between two messages of one answer": Point("outbox.posting", after=True, times=2),
    "the second message posted, its id not stored": Point("outbox.posted", times=2),
    "inside the transaction of the end": Point("inbox.put_final", after=True),
    "the end stored but not shown": Point("inbox.finish", after=True),
    "the end shown but not settled": Point("outbox.settled"),
    "the first of the messages settled": Point("outbox.settled", after=True),
}
EDITS = {
    "in the middle of the edits": 3,
    "after an edit that showed much": 6,
}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", [*POINTS, *EDITS])
async def test_a_kill_at_this_point_loses_and_doubles_nothing(tmp_path: Path, name: str, platform: str) -> None:
    point = POINTS.get(name) or Point(f"{platform}.update", after=True, times=EDITS[name])
    async with open_house(tmp_path, platform) as house:
        await house.start(point)
        await house.ask(platform, words=LONG)
        await house.ask(platform, who=1, where=1)
        await house.died()
        _forget_nonces(house.towns[platform])
        await house.start()
        await house.ask(platform, who=2, where=1)
        verdict = await house.sound()
    assert (verdict.answers, verdict.errors) == (3, 0)


def _forget_nonces(town: object) -> None:
    if isinstance(town, DiscordTown):
        town.forget_nonces()


@pytest.mark.parametrize("seed", range(20))
async def test_kills_at_random_points_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    async with open_house(tmp_path, *PLATFORMS) as house:
        await storm(house, chance, kills=chance.choice((1, 1, 2)))
        verdict = await house.sound()
    assert verdict.answers + verdict.errors == len(house.asked)
