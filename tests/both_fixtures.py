"""A test that wants a `platform` runs on Discord and on Slack. Test modules name this in `pytest_plugins`."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.both_platforms import Platform, started


@pytest_asyncio.fixture(params=["discord", "slack"])
async def platform(request: pytest.FixtureRequest) -> AsyncIterator[Platform]:
    """One of them."""
    async with started(request.param) as running:
        yield running
