"""Tests stored thoughts: they are read for a day, and deleted with their question, its answer and after that day."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.storage import Storage, outbox
from bot.storage.export import ExportFilter, records
from bot.types.messages import FinishReason, GenerationRequest, RequestStatus
from tests.support.builders.databases import CHOSEN
from tests.support.builders.storage_rows import ELSEWHERE, KEY, USAGE, ask, asked, open_storage, part, rows, said

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await open_storage(tmp_path)
    yield storage
    await storage.close()


async def think(storage: Storage, request: GenerationRequest, thoughts: str, text: str | None = "Hi.") -> None:
    """Stores an answer with its thoughts."""
    await storage.inbox.finish(
        request.request_id,
        RequestStatus.FINISHED,
        finish_reason=FinishReason.STOP,
        usage=USAGE,
        error="",
        answer=text,
        replies=[part(request)],
        thoughts=thoughts,
    )


async def test_thoughts_are_read_by_their_request_and_by_their_conversation(storage: Storage) -> None:
    one, two, three = [await ask(storage, name) for name in ("1", "2", "3")]
    await think(storage, one, "Hm.")
    await think(storage, two, "Hm, too.", None)
    await think(storage, three, "")
    assert await storage.outbox.thoughts(one.request_id) == "Hm."
    assert await storage.outbox.thoughts(three.request_id) == ""
    assert await storage.outbox.all_thoughts(KEY) == {one.request_id: "Hm.", two.request_id: "Hm, too."}
    await think(storage, one, "Hm, again.")
    assert await storage.outbox.thoughts(one.request_id) == "Hm, again."


async def test_an_export_has_thoughts_of_the_last_day_if_they_are_asked_for(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await ask(storage, "1"), asked("2", key=ELSEWHERE)
    await storage.inbox.accept(ELSEWHERE, "2", turns=[said("2", "Hi?", key=ELSEWHERE)], request=there)
    await think(storage, here, "Hm.")
    await think(storage, there, "Hm, there.")

    def exported(**how: object) -> list[str]:
        found = records(tmp_path, ExportFilter(**how), CHOSEN.url(tmp_path))  # type: ignore[arg-type]
        return [record["text"] for record in found if record["record"] == "thought"]

    assert exported() == []
    assert sorted(exported(thoughts=True)) == ["Hm, there.", "Hm."]
    assert exported(thoughts=True, places=[(KEY.platform, KEY.workspace, KEY.channel, KEY.thread)]) == ["Hm."]
    assert len(exported(thoughts=True, person=(KEY.platform, here.author.id))) == 2
    assert exported(thoughts=True, person=(KEY.platform, "nobody")) == []
    monkeypatch.setattr("bot.storage.export.THOUGHTS_S", 0.0)
    assert exported(thoughts=True) == []


@pytest.mark.parametrize("way", ["message", "forget", "author", "undo"])
async def test_thoughts_are_deleted_with_their_question(storage: Storage, tmp_path: Path, way: str) -> None:
    request = await ask(storage, "1")
    await think(storage, request, "the canary thinks")
    match way:
        case "message":
            await storage.history.remove_message(KEY, "1")
        case "forget":
            await storage.history.forget(KEY)
        case "author":
            await storage.history.forget_author(KEY, request.author.id)
        case "undo":
            await storage.history.undo(KEY)
    assert rows(tmp_path, "SELECT * FROM thoughts") == []
    await storage.close()
    assert b"canary" not in everything(tmp_path)


def everything(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def test_thoughts_about_a_question_that_was_deleted_meanwhile_are_not_stored(
    storage: Storage, tmp_path: Path
) -> None:
    request = await ask(storage, "1")
    await storage.history.remove_message(KEY, "1")
    await think(storage, request, "Hm.")
    assert rows(tmp_path, "SELECT * FROM thoughts") == []


async def test_thoughts_of_yesterday_are_not_shown_and_are_deleted(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = await ask(storage, "1")
    await think(storage, request, "Hm.")
    ((made_at,),) = rows(tmp_path, "SELECT made_at FROM thoughts")
    assert isinstance(made_at, float)
    assert await storage.expiry.thoughts(made_at - 1) == 0
    with monkeypatch.context() as patched:
        patched.setattr(outbox, "THOUGHTS_S", -1.0)
        assert await storage.outbox.thoughts(request.request_id) == ""
    assert await storage.expiry.thoughts(made_at + 1) == 1
    assert rows(tmp_path, "SELECT * FROM thoughts") == []


async def test_requests_expire_with_their_thoughts(storage: Storage, tmp_path: Path) -> None:
    request = await ask(storage, "1")
    await think(storage, request, "Hm.")
    await storage.outbox.mark_delivered(part(request).reply_id)
    while await storage.expiry.step(4e9, 4e9):
        pass
    assert rows(tmp_path, "SELECT * FROM requests") == rows(tmp_path, "SELECT * FROM thoughts") == []
