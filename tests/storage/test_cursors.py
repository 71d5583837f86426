"""Tests the backfill cursors: they never move back, and survive a restart."""

from dataclasses import replace
from pathlib import Path

import pytest

from bot.storage import Cursor
from bot.types.errors import StorageError
from tests.support.builders.storage_rows import ELSEWHERE, KEY, asked, open_storage, rows, said

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = pytest.mark.usefixtures("each_database")


async def test_cursors_are_there_after_a_restart_the_newest_first(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    await storage.cursors.save([Cursor(KEY, "1", 1.5), Cursor(ELSEWHERE, "2", 2.5)])
    await storage.cursors.save([])
    await storage.close()
    storage = await open_storage(tmp_path)
    assert await storage.cursors.of_platform("discord") == [Cursor(ELSEWHERE, "2", 2.5), Cursor(KEY, "1", 1.5)]
    assert await storage.cursors.of_platform("slack") == []
    await storage.close()


async def test_a_cursor_moves_on_and_never_back(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    for message_id, sent_at in (("5", 5.0), ("3", 3.0), ("7", 7.0), ("6", 6.0)):
        await storage.cursors.save([Cursor(KEY, message_id, sent_at)])
    assert await storage.cursors.of_platform("discord") == [Cursor(KEY, "7", 7.0)]
    await storage.close()


async def test_all_of_them_are_saved_or_none(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    broken = Cursor(replace(KEY, channel=None), "2", 2.0)  # type: ignore[arg-type]  # the invalid part
    with pytest.raises(StorageError):
        await storage.cursors.save([Cursor(ELSEWHERE, "1", 1.0), broken])
    assert await storage.cursors.of_platform("discord") == []
    await storage.close()


async def test_a_remark_is_stored_with_its_request_and_goes_with_what_is_forgotten(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    request = replace(asked("1"), remark="I could not read a.png.")
    await storage.inbox.accept(KEY, "1", turns=[said("1")], request=request)
    (owed,) = await storage.inbox.recover()
    assert owed.remark == "I could not read a.png."
    await storage.history.remove_message(KEY, "1")
    assert rows(tmp_path, "SELECT remark FROM requests") == [("",)]
    await storage.close()


async def test_an_edit_that_changes_nothing_is_none(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    await storage.history.add(said("1", "hello"))
    assert not await storage.history.edit(KEY, "1", "hello")
    assert await storage.history.edit(KEY, "1", "goodbye")
    assert not await storage.history.edit(KEY, "2", "goodbye")
    await storage.close()
