"""What the tests of the service share. Test modules name this in `pytest_plugins`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.fakes.team import Team
from tests.service_harness import House, open_house


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A running service with a scripted platform and engine."""
    async with open_house(tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture
async def team(house: House) -> Team:
    """The people who talk to it."""
    return house.team
