"""Kills a service at random points while people keep asking.

Each kill comes a random time after the start, after a random number of API calls, or at a random seam. The service runs
again after the last kill.
"""

import asyncio
from random import Random

from tests.support.crash.child_service import SEAMS, Point
from tests.support.crash.killable_service import CrashSetup
from tests.support.crash.platforms import DiscordDriver

LONGEST_S = 0.8
"""Longest time in seconds until a kill."""
LENGTHS = (4, 12, 40, 40, 300)
"""Words of an answer; the last length takes several messages."""
RARE = {"inbox.recover", "inbox.hand_back", "discord.fetch_since", "slack.fetch_since"}
"""Seams that a process passes at most once; the others kill at one of the first six calls."""


async def storm(setup: CrashSetup, chance: Random, kills: int = 1) -> None:
    """Kills the service `kills` times, with questions before and after each start."""
    for _ in range(kills):
        point = _point(chance) if chance.random() < 0.5 else None
        if setup.is_running and (point or chance.random() < 0.3):
            await setup.kill()
        await _ask(setup, chance, chance.randint(0, 2))
        if not setup.is_running:
            _age(setup, chance)
            await setup.start(point, connected=chance.random() < 0.7)
        asking = asyncio.create_task(_ask(setup, chance, chance.randint(1, 4), chance.uniform(0, 0.3)))
        await _end_of_life(setup, chance)
        await asking
        await setup.kill()
    await setup.start()


async def _end_of_life(setup: CrashSetup, chance: Random) -> None:
    """Waits until the time for the kill, or until the process has ended."""
    calls = sum(driver.calls() for driver in setup.drivers.values()) + chance.randint(1, 60)
    by_calls = chance.random() < 0.5
    end = asyncio.get_running_loop().time() + (LONGEST_S if by_calls else chance.uniform(0, LONGEST_S))
    while setup.is_running and asyncio.get_running_loop().time() < end:
        if by_calls and sum(driver.calls() for driver in setup.drivers.values()) >= calls:
            return
        await asyncio.sleep(0.002)


async def _ask(setup: CrashSetup, chance: Random, questions: int, over_s: float = 0.0) -> None:
    for _ in range(questions):
        driver = chance.choice(sorted(setup.drivers))
        await setup.ask(driver, words=chance.choice(LENGTHS), who=chance.randrange(3), where=chance.randrange(12))
        await asyncio.sleep(over_s / questions)


def _point(chance: Random) -> Point:
    seam = chance.choice([name for name in SEAMS if name != "migration.create_table"])
    return Point(seam, after=chance.random() < 0.5, times=1 if seam in RARE else chance.randint(1, 6))


def _age(setup: CrashSetup, chance: Random) -> None:
    """Advances the clock past Discord's nonce memory, at random."""
    driver = setup.drivers.get("discord")
    if isinstance(driver, DiscordDriver) and chance.random() < 0.5:
        driver.forget_nonces()
