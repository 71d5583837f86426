"""Tests the outbox: a part is stored before it is posted, found by its platform id, and pending until it is shown."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bot.storage import Storage
from bot.types.errors import StorageError
from tests.support.builders.storage_rows import KEY, answer, ask, asked, open_storage, part, rows

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await open_storage(tmp_path)
    yield storage
    await storage.close()


async def state_of(storage: Storage, reply_id: str) -> tuple[str, str | None]:
    stored = await storage.outbox.get(reply_id)
    assert stored is not None
    return stored.state, stored.reply.platform_id


async def test_a_part_is_followed_from_the_first_post_to_its_final_text(storage: Storage) -> None:
    request = await ask(storage, "m1")
    reply = part(request)
    assert await storage.outbox.get(reply.reply_id) is None
    await storage.outbox.posting(replace(reply, committed="an", final=False))
    assert await state_of(storage, reply.reply_id) == ("posting", None)
    await storage.outbox.posted(reply.reply_id, "p1")
    assert await state_of(storage, reply.reply_id) == ("posted", "p1")
    assert await storage.outbox.undelivered() == []
    await answer(storage, request, "an answer", reply)
    assert [owed.reply for owed in await storage.outbox.undelivered()] == [replace(reply, platform_id="p1")]
    await storage.outbox.mark_delivered(reply.reply_id)
    assert await state_of(storage, reply.reply_id) == ("final", "p1")
    assert await storage.outbox.undelivered() == []


async def test_an_intent_to_post_never_overwrites_what_is_known(storage: Storage) -> None:
    request = await ask(storage, "m1")
    await storage.outbox.posting(part(request))
    await storage.outbox.posted(part(request).reply_id, "p1")
    await storage.outbox.posting(part(request, 0, "other words"))
    stored = await storage.outbox.of_request(request.request_id)
    assert [(one.reply, one.state) for one in stored] == [(part(request, platform_id="p1"), "posted")]


async def test_a_final_text_is_owed_until_it_is_settled_even_if_the_post_is_done(storage: Storage) -> None:
    request = await ask(storage, "m1")
    await answer(storage, request, "an answer", part(request))
    await storage.outbox.posting(part(request))
    await storage.outbox.posted(part(request).reply_id, "p1")
    assert [owed.reply.platform_id for owed in await storage.outbox.undelivered()] == ["p1"]


async def test_what_can_never_be_shown_is_dropped_with_its_reason(storage: Storage, tmp_path: Path) -> None:
    request = await ask(storage, "m1")
    await answer(storage, request, "an answer", part(request))
    await storage.outbox.mark_delivered(part(request).reply_id, dropped="The channel is gone.")
    assert await state_of(storage, part(request).reply_id) == ("dropped", None)
    assert await storage.outbox.undelivered() == []
    assert rows(tmp_path, "SELECT dropped FROM outbox") == [("The channel is gone.",)]


async def test_the_text_for_a_question_that_was_deleted_is_owed_and_then_not_kept(storage: Storage) -> None:
    request = await ask(storage, "m1")
    await storage.history.remove_message(KEY, "m1")
    await answer(storage, request, "an answer", part(request))
    assert [owed.reply.committed for owed in await storage.outbox.undelivered()] == ["an answer"]
    await storage.outbox.mark_delivered(part(request).reply_id)
    stored = await storage.outbox.get(part(request).reply_id)
    assert stored is not None
    assert (stored.state, stored.reply.committed, stored.reply.attachment) == ("final", "", None)


async def test_what_is_owed_comes_in_order_of_acceptance_and_of_part_and_only_of_ended_requests(
    storage: Storage,
) -> None:
    first, second, going_on = await ask(storage, "m2"), await ask(storage, "m1"), await ask(storage, "m3")
    await answer(storage, second, "an answer", part(second))
    await answer(storage, first, "an answer", part(first, 1), part(first, 0))
    await storage.outbox.posting(part(going_on))
    assert [owed.reply for owed in await storage.outbox.undelivered()] == [part(first, 0), part(first, 1), part(second)]
    parts = await storage.outbox.of_request(first.request_id)
    assert [one.reply.part for one in parts] == [0, 1]


async def test_a_part_is_found_by_the_platforms_id_within_its_channel(storage: Storage) -> None:
    request = await ask(storage, "m1")
    await storage.outbox.posting(part(request))
    await storage.outbox.posted(part(request).reply_id, "p1")
    found = await storage.outbox.by_platform_id("discord", "guild", "channel", "p1")
    assert found is not None
    assert found.reply.reply_id == part(request).reply_id
    assert await storage.outbox.by_platform_id("discord", "guild", "elsewhere", "p1") is None
    assert await storage.outbox.by_platform_id("discord", "guild", "channel", "p2") is None


async def test_a_part_without_an_attachment_or_a_cost_has_none(storage: Storage) -> None:
    request = await ask(storage, "m1")
    plain = replace(part(request), attachment=None, usage=None, finish_reason=None, buttons=())
    await storage.outbox.posting(plain)
    stored = await storage.outbox.get(plain.reply_id)
    assert stored is not None
    assert stored.reply == plain


async def test_each_user_has_one_rating_the_newest(storage: Storage, tmp_path: Path) -> None:
    request = await ask(storage, "m1")
    await storage.outbox.posting(part(request))
    for actor, good in (("1", True), ("2", True), ("1", False)):
        await storage.outbox.rate(part(request).reply_id, actor, good)
    assert rows(tmp_path, "SELECT actor_id, good FROM ratings ORDER BY actor_id") == [("1", 0), ("2", 1)]


async def test_a_part_or_an_opinion_of_nothing_is_an_error(storage: Storage) -> None:
    with pytest.raises(StorageError, match=r"(?i)foreign key"):
        await storage.outbox.posting(part(asked("m1")))
    with pytest.raises(StorageError, match=r"(?i)foreign key"):
        await storage.outbox.rate("unknown", "1", True)


async def test_runs_of_the_service_that_show_an_answer_are_counted_until_it_ends_in_order(storage: Storage) -> None:
    async def runs(request_id: str) -> int:
        stored = await storage.inbox.request(request_id)
        assert stored is not None
        return stored.request.service_runs

    shown, waiting = await ask(storage, "m1"), await ask(storage, "m2")
    await storage.inbox.start(shown.request_id)
    await storage.inbox.hand_back(shown.request_id, 1.0, counts=True)  # the engine died, the service did not
    assert await runs(shown.request_id) == 0
    await storage.inbox.start(shown.request_id)
    await storage.inbox.recover()  # the service was killed
    await storage.inbox.hand_back(shown.request_id, 1.0, counts=False)
    assert await runs(shown.request_id) == 1
    await storage.inbox.start(shown.request_id)
    await answer(storage, shown, "the answer", part(shown))
    assert [found.service_runs for found in await storage.outbox.undelivered()] == [2]
    await storage.outbox.begin_showing(shown.request_id)
    assert await runs(shown.request_id) == 3
    for _ in range(5):
        await storage.outbox.hand_back()
    assert (await runs(shown.request_id), await runs(waiting.request_id)) == (0, 0)


async def test_an_answer_is_found_by_its_request_and_its_final_texts_can_be_replaced(storage: Storage) -> None:
    request = await ask(storage, "m1")
    assert await storage.outbox.answer(request.request_id) == ""
    await answer(storage, request, "the answer", part(request), part(request, 1))
    assert await storage.outbox.answer(request.request_id) == "the answer"
    await storage.outbox.mark_delivered(part(request).reply_id)
    await storage.outbox.replace_final([part(request, 0, "another"), part(request, 1, "more")])
    assert [found.reply.committed for found in await storage.outbox.undelivered()] == ["another", "more"]
