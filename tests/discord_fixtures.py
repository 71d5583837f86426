"""What the tests of Discord with the real service share. Test modules name this in `pytest_plugins`."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.fakes.discord import FakeDiscord


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeDiscord]:
    """A Discord of our own."""
    async with FakeDiscord() as running:
        yield running
