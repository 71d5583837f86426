"""What the tests of reading back share. Test modules name this in `pytest_plugins`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.storage import Storage
from tests.catchup_stage import Channel, Listener


@pytest.fixture
async def listener(tmp_path: Path) -> AsyncIterator[Listener]:
    """It has heard one message of each of two channels."""
    storage = await Storage.open(tmp_path)
    listener = Listener(storage, Channel(2))
    await listener.restarts()
    await listener.reads_back()
    for channel in (0, 1):
        listener.hears(listener.channel.says(channel=channel))
    await listener.catchup.save()
    yield listener
    await storage.close()
