"""Tests the pictures of turns: bounded, and deleted with whatever deletes the turn."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bot.storage import NewTurn, Storage, picture_store
from bot.storage.expiry import STEP_PICTURES
from bot.storage.export import ExportFilter, records
from bot.types.messages import ConversationKey, Picture, Role
from tests.support.builders.databases import CHOSEN
from tests.support.builders.storage_rows import open_storage

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = pytest.mark.usefixtures("each_database")

KEY = ConversationKey("test", "home", "general")
SECRET = b"pixels of a secret"


def picture(name: str = "cat.png", data: bytes = SECRET) -> Picture:
    return Picture(name, "image/png", data, 3, 2)


def turn(number: int, *pictures: Picture, key: ConversationKey = KEY) -> NewTurn:
    text = f"message {number}"
    return NewTurn(key, Role.USER, "id-ana", "Ana", text, str(number), float(number), pictures=pictures)


async def names(storage: Storage, key: ConversationKey = KEY) -> list[str]:
    """Names of the kept pictures of a conversation, in its order."""
    turns = await storage.history.turns(key, hidden=True)
    found = await storage.history.pictures([each.id for each in turns], 1000)
    return [each.name for one in turns for each in found.get(one.id, ())]


async def test_pictures_come_back_in_order(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    first, second = picture("a.png"), picture("b.png", b"other")
    await storage.history.add(turn(1, first, second))
    await storage.history.add(turn(1, picture("again.png")))  # a duplicate
    (stored,) = await storage.history.turns(KEY)
    assert await storage.history.pictures([stored.id], 4) == {stored.id: (first, second)}
    assert await storage.history.pictures([stored.id], 1) == {stored.id: (first,)}
    await storage.close()


async def test_those_of_the_first_turns_are_preferred(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    for number in range(4):
        await storage.history.add(turn(number, picture(f"{number}.png")))
    ids = [each.id for each in await storage.history.turns(KEY)]
    found = await storage.history.pictures([ids[3], ids[0], *reversed(ids)], 3)
    assert found.keys() == {ids[3], ids[0], ids[2]}
    await storage.close()


async def test_an_edit_replaces_the_pictures(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    await storage.history.add(turn(1, picture("a.png")))
    assert await storage.history.edit(KEY, "1", "with another one", [picture("b.png")])
    assert await names(storage) == ["b.png"]
    assert await storage.history.edit(KEY, "1", "without")
    assert await names(storage) == []
    await storage.close()


def files_with(data: bytes, directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if data in path.read_bytes()]


Delete = Callable[[Storage], Awaitable[object]]
DELETIONS: dict[str, Delete] = {
    "forget all": lambda storage: storage.history.forget(KEY),
    "forget mine": lambda storage: storage.history.forget_author(KEY, "id-ana"),
    "the message is deleted": lambda storage: storage.history.remove_message(KEY, "1", everywhere=True),
    "undo": lambda storage: storage.history.undo(KEY),
}


@pytest.mark.parametrize("delete", DELETIONS.values(), ids=DELETIONS.keys())
async def test_what_deletes_the_turn_deletes_its_pictures_from_the_files(tmp_path: Path, delete: Delete) -> None:
    storage = await open_storage(tmp_path)
    await storage.history.add(turn(1, picture()))
    assert await names(storage) == ["cat.png"]
    await delete(storage)
    assert await names(storage) == []
    await storage.close()
    assert not files_with(SECRET, tmp_path)


async def test_retention_deletes_pictures_in_small_steps(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    for number in range(STEP_PICTURES + 2):
        await storage.history.add(turn(number, picture()))
    await storage.history.add(turn(1000, picture("new.png")))
    assert await storage.expiry.step(500.0, 0.0) == STEP_PICTURES
    assert await storage.expiry.step(500.0, 0.0) == 2
    assert await storage.expiry.step(500.0, 0.0) == STEP_PICTURES + 2
    assert await storage.expiry.step(500.0, 0.0) == 0
    assert await names(storage) == ["new.png"]
    await storage.close()


async def test_the_oldest_of_a_conversation_give_way(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    other = replace(KEY, channel="random")
    await storage.history.add(turn(1, picture("theirs.png"), key=other))
    for number in range(picture_store.KEPT + 3):
        await storage.history.add(turn(number, picture(f"{number}.png")))
    assert await names(storage) == [f"{number}.png" for number in range(3, picture_store.KEPT + 3)]
    assert await names(storage, other) == ["theirs.png"]
    assert len(await storage.history.turns(KEY)) == picture_store.KEPT + 3
    await storage.close()


async def test_the_oldest_of_all_give_way_when_the_disk_s_share_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_store, "MAX_TOTAL", 250)
    monkeypatch.setattr(picture_store, "STEP", 1)
    storage = await open_storage(tmp_path)
    keys = [replace(KEY, channel=f"channel {number}") for number in range(4)]
    for key in keys:
        await storage.history.add(turn(1, picture(data=bytes(100)), key=key))
    assert [await names(storage, key) for key in keys] == [[], [], ["cat.png"], ["cat.png"]]
    await storage.close()


async def test_an_export_names_the_pictures(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    await storage.history.add(turn(1, picture()))
    await storage.history.add(turn(1, picture("dog.png"), key=replace(KEY, channel="random")))
    await storage.close()
    for chosen in (ExportFilter(places=[("test", "home", "general")]), ExportFilter(person=("test", "id-ana"))):
        found = [record for record in records(tmp_path, chosen, CHOSEN.url(tmp_path)) if record["record"] == "picture"]
        assert found[0].items() >= {"name": "cat.png", "kind": "image/png", "width": 3, "size": len(SECRET)}.items()
        assert "data" not in found[0]
        assert len(found) == (1 if chosen.places else 2)
    assert not [
        record
        for record in records(tmp_path, ExportFilter(person=("test", "ben")), CHOSEN.url(tmp_path))
        if "size" in record
    ]
