"""Tests the backfill cursors: when they are stored, and how many stay in memory."""

import asyncio
import gc
from pathlib import Path

import pytest

from bot.conversations.backfill import SAVE_S
from bot.storage import Cursor, Cursors, Storage
from bot.types.errors import StorageError
from bot.types.messages import ConversationKey
from tests.support.builders.backfill_channel import Channel, Listener

pytest_plugins = ["tests.support.fixtures.backfill"]

FULL = StorageError("The disk is full.")


def cursors_in_memory() -> int:
    """The number of cursors in this process."""
    gc.collect()
    return sum(type(each) is Cursor for each in gc.get_objects())


async def test_of_months_of_threads_only_those_that_would_be_read_back_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.conversations.backfill.MOST_CHANNELS", 10)
    monkeypatch.setattr("bot.conversations.backfill.MOST_KEPT", 30)
    storage = await Storage.open(tmp_path)
    others = cursors_in_memory()
    listener = Listener(storage, Channel(100))
    await listener.reads_back()
    for channel in range(100):
        listener.hears(listener.channel.says(channel=channel))
        await listener.backfill.save()
    assert cursors_in_memory() - others <= 31
    missed = [listener.channel.says(channel=channel) for channel in range(90, 100)]
    assert await listener.reads_back() == [event.message_id for event in missed]
    assert len(await storage.cursors.of_platform("scripted")) == 100
    await storage.close()


async def test_cursors_that_could_not_be_stored_are_stored_later(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise FULL

    heard = listener.channel.says()
    listener.hears(heard)
    with monkeypatch.context() as patched:
        patched.setattr(Cursors, "save", full)
        await listener.backfill.save()
    await listener.backfill.save()
    assert heard.message_id in [cursor.message_id for cursor in await listener.storage.cursors.of_platform("scripted")]


async def test_the_first_cursor_of_a_channel_is_not_put_off(listener: Listener) -> None:
    saving = asyncio.create_task(listener.backfill.keep_saving())
    for number in (2, 3):
        listener.channel.keys += Channel().keys
        listener.hears(listener.channel.says(channel=number))
        if number == 2:  # received before the session's backfill is complete
            await listener.reads_back()
        async with asyncio.timeout(SAVE_S / 2):
            await has_cursor(listener, listener.channel.keys[number])
    saving.cancel()
    await asyncio.wait([saving])


async def has_cursor(listener: Listener, place: ConversationKey) -> None:
    """Waits until a channel has a stored cursor."""
    while all(cursor.key != place for cursor in await listener.storage.cursors.of_platform("scripted")):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
