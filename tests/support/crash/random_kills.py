"""Kills a service at random points while people keep asking.

Each kill comes a random time after the start, after a random number of API calls, or at a random seam. The service runs
again after the last kill.
"""

import asyncio
from random import Random

from tests.support.crash.child_service import SEAMS, Point
from tests.support.crash.killable_service import House
from tests.support.crash.platforms import DiscordTown

LONGEST_S = 0.8
"""Longest time in seconds until a kill."""
LENGTHS = (4, 12, 40, 40, 300)
"""Words of an answer; the last length takes several messages."""
RARE = {"inbox.recover", "inbox.hand_back", "discord.fetch_since", "slack.fetch_since"}
"""Seams that a process passes at most once; the others kill at one of the first six calls."""


async def storm(house: House, chance: Random, kills: int = 1) -> None:
    """Kills the service `kills` times, with questions before and after each start."""
    for _ in range(kills):
        point = _point(chance) if chance.random() < 0.5 else None
        if house.lives_now and (point or chance.random() < 0.3):
            await house.kill()
        await _ask(house, chance, chance.randint(0, 2))
        if not house.lives_now:
            _age(house, chance)
            await house.start(point, connected=chance.random() < 0.7)
        asking = asyncio.create_task(_ask(house, chance, chance.randint(1, 4), chance.uniform(0, 0.3)))
        await _end_of_life(house, chance)
        await asking
        await house.kill()
    await house.start()


async def _end_of_life(house: House, chance: Random) -> None:
    """Waits until the time for the kill, or until the process has ended."""
    calls = sum(town.calls() for town in house.towns.values()) + chance.randint(1, 60)
    by_calls = chance.random() < 0.5
    end = asyncio.get_running_loop().time() + (LONGEST_S if by_calls else chance.uniform(0, LONGEST_S))
    while house.lives_now and asyncio.get_running_loop().time() < end:
        if by_calls and sum(town.calls() for town in house.towns.values()) >= calls:
            return
        await asyncio.sleep(0.002)


async def _ask(house: House, chance: Random, questions: int, over_s: float = 0.0) -> None:
    for _ in range(questions):
        town = chance.choice(sorted(house.towns))
        await house.ask(town, words=chance.choice(LENGTHS), who=chance.randrange(3), where=chance.randrange(12))
        await asyncio.sleep(over_s / questions)


def _point(chance: Random) -> Point:
    seam = chance.choice([name for name in SEAMS if name != "migration.create_table"])
    return Point(seam, after=chance.random() < 0.5, times=1 if seam in RARE else chance.randint(1, 6))


def _age(house: House, chance: Random) -> None:
    """Advances the clock past Discord's nonce memory, at random."""
    town = house.towns.get("discord")
    if isinstance(town, DiscordTown) and chance.random() < 0.5:
        town.forget_nonces()
