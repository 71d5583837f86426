"""Tests the history of a conversation: chronological order, and removal."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from bot.storage import Storage, as_turn
from bot.types.messages import ConversationKey, Role, Turn
from tests.support.builders.storage_rows import (
    ELSEWHERE,
    KEY,
    answer,
    ask,
    asked,
    listening,
    open_storage,
    part,
    said,
    texts,
)

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await open_storage(tmp_path)
    yield storage
    await storage.close()


async def talk(storage: Storage) -> None:
    """Stores three questions in another order than they were sent, the first two with answers."""
    second = await ask(storage, "m2", "two?", at=2.0)
    first = await ask(storage, "m1", "one?", at=1.0)
    await answer(storage, second, "two!")
    await ask(storage, "m3", "three?", at=3.0)
    await answer(storage, first, "one!")


async def test_turns_come_in_the_order_of_the_platform_each_answer_after_its_question(storage: Storage) -> None:
    await talk(storage)
    assert texts(await storage.history.turns(KEY)) == ["one?", "one!", "two?", "two!", "three?"]
    assert texts(await storage.history.turns(KEY, limit=2)) == ["two!", "three?"]


async def test_until_a_question_gives_nothing_after_it_nor_its_own_answer(storage: Storage) -> None:
    await talk(storage)
    assert texts(await storage.history.turns(KEY, until="m2")) == ["one?", "one!", "two?"]
    assert texts(await storage.history.turns(KEY, until="m2", limit=1)) == ["two?"]
    assert await storage.history.turns(KEY, until="unknown") == []


async def test_a_long_history_loses_its_beginning_in_steps(storage: Storage) -> None:
    begins_with = []
    for number in range(12):
        await storage.history.add(said(f"m{number}", str(number), at=float(number)))
        kept = texts(await storage.history.turns(KEY, limit=6, step=4))
        assert kept[-1] == str(number)
        assert len(kept) <= 6
        begins_with.append(int(kept[0]))
    assert begins_with == [0] * 6 + [4] * 4 + [8] * 2


async def test_a_message_is_one_turn_however_often_it_is_added(storage: Storage) -> None:
    await storage.history.add(said("m1", "as first seen"))
    await storage.history.add(said("m1", "as seen again"))
    assert texts(await storage.history.turns(KEY)) == ["as first seen"]


async def test_a_stored_turn_becomes_a_turn_of_the_prompt(storage: Storage) -> None:
    await storage.history.add(said("m1", at=1.5))
    (stored,) = await storage.history.turns(KEY)
    assert as_turn(stored) == Turn(Role.USER, "Ann", "hello", "m1", 1.5)
    assert (stored.author_id, stored.request_id) == ("1", None)


async def test_an_edit_changes_the_question_and_not_its_answer(storage: Storage) -> None:
    await talk(storage)
    assert await storage.history.edit(KEY, "m1", "uno?")
    assert texts(await storage.history.turns(KEY, limit=5))[:2] == ["uno?", "one!"]
    assert not await storage.history.edit(KEY, "unknown", "x")
    assert not await storage.history.edit(ELSEWHERE, "m1", "x")


@pytest.mark.fault(6)
async def test_an_older_edit_that_comes_after_a_newer_one_changes_nothing(storage: Storage, tmp_path: Path) -> None:
    history = storage.history
    for key in (KEY, ELSEWHERE):
        await history.add(said("m1", "zero", key=key))
    assert await history.edit(KEY, "m1", "two", edited_at=2.0, everywhere=True)
    assert not await history.edit(KEY, "m1", "one", edited_at=1.0, everywhere=True)
    assert [texts(await history.turns(key)) for key in (KEY, ELSEWHERE)] == [["two"], ["two"]]
    await storage.close()
    again = await open_storage(tmp_path)
    assert not await again.history.edit(KEY, "m1", "one", edited_at=1.0)
    assert await again.history.edit(KEY, "m1", "three", edited_at=2.0), "it may be a later one of the same second"
    assert texts(await again.history.turns(KEY)) == ["three"]
    await again.close()


@pytest.mark.fault(6)
async def test_an_edit_that_restores_the_stored_text_is_newer_than_one_that_comes_later(storage: Storage) -> None:
    await storage.history.add(said("m1", "hello"))
    assert not await storage.history.edit(KEY, "m1", "hello", edited_at=2.0)
    assert not await storage.history.edit(KEY, "m1", "helo", edited_at=1.0)
    assert texts(await storage.history.turns(KEY)) == ["hello"]


@pytest.mark.fault(6)
async def test_a_message_that_was_edited_before_it_was_stored_is_newer_than_its_older_edit(storage: Storage) -> None:
    await storage.history.add(replace(said("m1", "two"), edited_at=2.0))
    assert not await storage.history.edit(KEY, "m1", "one", edited_at=1.0)
    assert texts(await storage.history.turns(KEY)) == ["two"]


async def test_a_removed_message_takes_its_answer_with_it(storage: Storage) -> None:
    await talk(storage)
    assert await storage.history.remove_message(ELSEWHERE, "m1") == 0
    assert await storage.history.remove_message(KEY, "m1") == 2
    assert await storage.history.remove_message(KEY, "m1") == 0
    assert texts(await storage.history.turns(KEY)) == ["two?", "two!", "three?"]


@pytest.mark.parametrize("each_database", ["SQLite"], indirect=True)  # a server's files are its operator's
@pytest.mark.parametrize("way", ["remove_message", "forget"])
async def test_what_is_removed_is_in_no_file_any_more(storage: Storage, tmp_path: Path, way: str) -> None:
    request = await ask(storage, "m1", "the canary in the question " * 300)
    await storage.outbox.posting(part(request, 0, "the canary in the part"))
    await answer(storage, request, "the canary in the answer", part(request, 1, "the canary in another part"))
    await storage.outbox.mark_delivered(part(request, 0).reply_id)
    assert b"the canary" in everything(tmp_path)
    if way == "forget":
        await storage.history.forget(KEY)
    else:
        await storage.history.remove_message(KEY, "m1")
    left = everything(tmp_path)
    assert b"the canary" not in left
    assert b"# all of it" not in left
    assert request.request_id.encode() in left


def everything(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()))


async def test_the_parts_of_a_removed_question_are_not_shown_any_more(storage: Storage) -> None:
    request, other = await ask(storage, "m1"), await ask(storage, "m2")
    await answer(storage, request, "an answer", part(request))
    await answer(storage, other, "an answer", part(other))
    await storage.history.remove_message(KEY, "m1")
    assert [owed.reply for owed in await storage.outbox.undelivered()] == [part(other)]
    dropped = await storage.outbox.get(part(request).reply_id)
    assert dropped is not None
    assert (dropped.state, dropped.reply.committed, dropped.reply.attachment) == ("dropped", "", None)


async def test_undo_takes_back_the_newest_question_and_what_follows_it(storage: Storage) -> None:
    await talk(storage)
    assert await storage.history.undo(ELSEWHERE) is None
    for question, left in (
        ("three?", ["one?", "one!", "two?", "two!"]),
        ("two?", ["one?", "one!"]),
        ("one?", []),
    ):
        undone = await storage.history.undo(KEY)
        assert undone is not None
        assert undone.text == question
        assert texts(await storage.history.turns(KEY)) == left
    assert await storage.history.undo(KEY) is None


async def test_reset_hides_what_was_said_but_keeps_it(storage: Storage) -> None:
    await talk(storage)
    assert await storage.history.reset(KEY) == 5
    assert await storage.history.reset(KEY) == 0
    await ask(storage, "m4", "four?", at=4.0)
    assert texts(await storage.history.turns(KEY)) == ["four?"]
    assert len(await storage.history.turns(KEY, hidden=True)) == 6
    assert await storage.history.undo(KEY) is not None
    assert await storage.history.undo(KEY) is None  # undo does not go back before a reset


async def test_a_question_from_before_a_reset_is_answered_alone_and_its_answer_stays_hidden(storage: Storage) -> None:
    await talk(storage)
    request = asked("m3")
    await storage.history.reset(KEY)
    assert texts(await storage.history.turns(KEY, until="m3")) == ["three?"]
    await answer(storage, request, "three!")
    assert await storage.history.turns(KEY) == []
    assert texts(await storage.history.turns(KEY, hidden=True))[-1] == "three!"


async def test_forget_deletes_the_turns_and_the_names_and_keeps_the_ids_of_requests(storage: Storage) -> None:
    await talk(storage)
    await storage.history.add(said("m1", "not meant", key=ELSEWHERE))
    assert await storage.history.forget(KEY) == (5, {"m1", "m2", "m3"})
    assert await storage.history.turns(KEY, hidden=True) == []
    assert texts(await storage.history.turns(ELSEWHERE)) == ["not meant"]
    stored = await storage.inbox.request("request of m1")
    assert stored is not None
    assert (stored.request.message_id, stored.request.author.id, stored.request.author.name) == ("m1", "1", "")


async def test_settings_are_of_one_key_and_a_thread_has_its_channels_where_it_has_none(storage: Storage) -> None:
    history = storage.history
    await history.set(ELSEWHERE, "model", "phi-2")
    await history.set(ELSEWHERE, "system", "Be brief.")
    await history.set(KEY, "model", "smollm2")
    await history.set(KEY, "model", "phi-4")
    assert await history.settings(KEY) == {"model": "phi-4"}
    assert await history.resolved(KEY) == {"model": "phi-4", "system": "Be brief."}
    assert await history.resolved(ELSEWHERE) == {"model": "phi-2", "system": "Be brief."}
    await history.set(KEY, "model", None)
    assert await history.settings(KEY) == {}
    assert await history.resolved(KEY) == {"model": "phi-2", "system": "Be brief."}


async def test_a_thread_is_followed_once_anything_was_said_or_asked_in_it(storage: Storage) -> None:
    heard, asked_in = ConversationKey("slack", "w", "c", "t1"), ConversationKey("slack", "w", "c", "t2")
    assert not await storage.history.following(heard)
    await storage.history.add(said("m1", key=heard))
    await storage.inbox.accept(asked_in, "m2", request=asked("m2", key=asked_in))
    assert await storage.history.following(heard)
    assert await storage.history.following(asked_in)
    assert not await storage.history.following(ConversationKey("slack", "w", "c"))


async def test_a_message_that_stands_as_context_elsewhere_is_changed_and_removed_there_too(
    storage: Storage, tmp_path: Path
) -> None:
    await storage.history.add(said("m1", "the canary"))
    await storage.history.add(said("m1", "the canary", key=ELSEWHERE))
    assert await storage.history.edit(ELSEWHERE, "m1", "a finch", everywhere=True)
    assert texts(await storage.history.turns(KEY)) == ["a finch"]
    assert b"the canary" not in everything(tmp_path)
    assert await storage.history.remove_message(ELSEWHERE, "m1", everywhere=True) == 2
    assert await storage.history.turns(KEY) == []


async def test_forgetting_300_messages_of_a_user_is_one_transaction(storage: Storage) -> None:
    for number in range(300):
        await ask(storage, f"m{number}", at=float(number))
    await storage.history.add(replace(said("other", "of another"), author_id="2"))
    commits: list[object] = []
    with listening(Engine, "commit", lambda *about: commits.append(about)):
        removed, ids = await storage.history.forget_author(KEY, "1")
    assert (removed, len(ids), len(commits)) == (300, 300, 1)
    assert texts(await storage.history.turns(KEY)) == ["of another"]


async def test_the_last_message_of_a_user_is_forgotten_with_its_answer(storage: Storage) -> None:
    await talk(storage)
    await storage.history.add(replace(said("m9", "of another", at=9.0), author_id="2"))
    assert await storage.history.forget_author(KEY, "1", last=True) == (1, {"m3"})
    assert await storage.history.forget_author(KEY, "1", last=True) == (2, {"m2"})
    assert texts(await storage.history.turns(KEY)) == ["one?", "one!", "of another"]


async def test_undo_of_a_user_removes_only_the_question_that_they_asked_last(storage: Storage) -> None:
    await ask(storage, "m1", "one?", at=1.0)
    await storage.history.add(said("context", "not asked", at=2.0))
    await storage.history.add(replace(said("m9", "of another", at=9.0), author_id="2"))
    assert await storage.history.undo(KEY, "2") is None
    undone = await storage.history.undo(KEY, "1")
    assert undone is not None
    assert undone.text == "one?"
    assert texts(await storage.history.turns(KEY)) == ["not asked", "of another"]
