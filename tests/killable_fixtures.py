"""A service that runs in a process of its own, for tests that kill it. Test modules name this in `pytest_plugins`."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.world import World
from tests.killable import Killable, Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """One for all tests here."""
    made = Nursery()
    yield made
    made.ends()


@pytest_asyncio.fixture
async def house(tmp_path: Path, nursery: Nursery) -> AsyncIterator[Killable]:
    """A service that runs."""
    async with World() as world:
        killable = Killable(tmp_path, world, nursery)
        await killable.starts()
        yield killable
        if world.here:
            await killable.is_killed()
        assert killable.stored("PRAGMA integrity_check") == [("ok",)]
