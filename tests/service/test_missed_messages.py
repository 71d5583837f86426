"""Tests when messages are read back that a dead host may have received and not stored."""

import asyncio

import pytest

from bot.service import missed_messages
from bot.service.missed_messages import UNSTORED_S, MissedMessages
from bot.types.errors import StorageError


class Reading:
    """A platform whose reading lasts until `done` is set; `since` has the times from which it was read."""

    def __init__(self) -> None:
        self.since: list[float] = []
        self.at_once = self.most_at_once = self.failures = 0
        self.done = asyncio.Event()
        self.missed = MissedMessages(["slack"], self._read)

    async def _read(self, platform: str, since: float) -> None:
        self.since.append(since)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.done.wait()
        self.at_once -= 1
        if self.failures:
            self.failures -= 1
            raise StorageError("the database does not answer")

    async def ended(self) -> None:
        """Waits until nothing is left to be read."""
        async with asyncio.timeout(10):
            while self.missed.tasks:
                await asyncio.gather(*self.missed.tasks)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses."""
    monkeypatch.setattr(missed_messages, "PAUSES_S", (0.0, 0.2))
    monkeypatch.setattr(missed_messages, "RETRY_S", 0.01)


async def test_a_death_is_read_back_at_once_and_once_more() -> None:
    reading = Reading()
    reading.done.set()
    reading.missed.read_later(1000.0)
    await reading.ended()
    assert reading.since == [1000.0 - UNSTORED_S] * 2


async def test_many_deaths_during_a_slow_reading_are_one_further_reading() -> None:
    reading = Reading()
    for since in (1000.0, 990.0, 1010.0, 1020.0):
        reading.missed.read_later(since)
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    reading.done.set()
    await reading.ended()
    assert reading.most_at_once == 1
    assert reading.since == [1000.0 - UNSTORED_S, 990.0 - UNSTORED_S]


async def test_a_reading_that_could_not_be_stored_is_repeated() -> None:
    reading = Reading()
    reading.done.set()
    reading.failures = 2
    reading.missed.read_later(1000.0)
    await reading.ended()
    assert reading.since == [1000.0 - UNSTORED_S] * 4
