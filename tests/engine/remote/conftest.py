"""Fixtures of the tests of servers."""

from collections.abc import AsyncIterator

import aiohttp
import pytest_asyncio


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without retries."""
    async with aiohttp.ClientSession() as session:
        yield session
