"""What the tests of Slack with the real service share. Test modules name this in `pytest_plugins`."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.fakes.slack_server import FakeSlack


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeSlack]:
    """A Slack of our own."""
    async with FakeSlack() as running:
        yield running
