"""Tests the way from messages to turns and prompts: once each, in the platform's order, with the conversation's
settings."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bot.conversations.conversations import text_with_files
from bot.models.catalog import Catalog
from bot.storage import Storage
from bot.types.errors import StorageError
from bot.types.messages import (
    Accepted,
    Attachment,
    IncomingMessage,
    MessageDeleted,
    MessageEdited,
    Person,
    Refused,
    RequestKind,
)
from tests.support.builders.conversations import ANA, CHANNEL, THREAD, ConversationsSetup
from tests.support.builders.service import make_settings


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[ConversationsSetup]:
    settings = make_settings(tmp_path, queue_size=3, per_user=2)
    storage = await Storage.open(settings.state_dir)
    yield ConversationsSetup(settings, storage)
    await storage.close()


async def test_a_message_that_comes_three_times_is_one_turn_and_one_request(setup: ConversationsSetup) -> None:
    outcomes = [await setup.hears("hello", at=1.0) for _ in range(3)]
    assert outcomes == [Accepted(setup.owed[0].request_id), Accepted(), Accepted()]
    assert await setup.reads(setup.owed[0]) == ["hello"]
    assert len(setup.owed) == 1


async def test_copies_that_come_at_the_same_time_are_one_request_and_none_is_refused(setup: ConversationsSetup) -> None:
    await setup.hears("first", at=0.0)
    outcomes = await asyncio.gather(*(setup.hears("hello") for _ in range(10)))
    assert sorted(outcomes, key=str) == [*[Accepted()] * 9, Accepted(setup.owed[1].request_id)]
    assert len(setup.owed) == 2


async def test_a_message_that_is_not_for_the_bot_is_left_alone(setup: ConversationsSetup) -> None:
    assert await setup.hears("hello", addressed=False) == Accepted()
    assert await setup.hears("hello") != Accepted()


@pytest.mark.parametrize("text", ["", "  \n "])
async def test_nothing_to_answer_is_refused_with_a_sentence(setup: ConversationsSetup, text: str) -> None:
    outcome = await setup.hears(text, message_id="1")
    assert isinstance(outcome, Refused)
    assert "no text" in outcome.text


async def test_a_full_queue_refuses_and_stores_nothing(setup: ConversationsSetup) -> None:
    for text in ("one", "two"):
        await setup.hears(text)
    outcome = await setup.hears("three")
    assert isinstance(outcome, Refused)
    assert "2 questions waiting" in outcome.text
    assert not await setup.storage.inbox.seen(CHANNEL, "three")
    assert [turn.text for turn in await setup.storage.history.turns(CHANNEL)] == ["one", "two"]
    await setup.answers(setup.owed[0], "1")
    assert await setup.hears("three") == Accepted(setup.owed[-1].request_id)


async def test_a_full_queue_does_not_refuse_what_waits_in_it_already(setup: ConversationsSetup) -> None:
    for text in ("one", "two"):
        await setup.hears(text)
    assert await setup.hears("two") == Accepted()
    for name in ("ben", "cleo"):
        await setup.hears(name, who=Person(name, name))
    assert isinstance(await setup.hears("dan", who=Person("dan", "Dan")), Refused)
    assert await setup.hears("ben", who=Person("ben", "ben")) == Accepted()


async def test_when_a_message_cannot_be_stored_nothing_is_owed_and_its_place_is_free(
    setup: ConversationsSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object, **__: object) -> bool:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(setup.storage.inbox, "ask", failing)
        for _ in range(5):
            with pytest.raises(StorageError):
                await setup.hears("hello")
    assert setup.owed == []
    assert await setup.hears("hello") == Accepted(setup.owed[0].request_id)


@pytest.mark.fault(6)
@pytest.mark.parametrize("seed", range(5))
async def test_messages_that_arrive_out_of_order_are_read_in_the_platform_s_order(tmp_path: Path, seed: int) -> None:
    settings = make_settings(tmp_path, per_user=50)
    storage = await Storage.open(settings.state_dir)
    setup = ConversationsSetup(settings, storage)
    times = list(range(8))
    random.Random(seed).shuffle(times)
    for at in times:
        await setup.hears(f"text {at}", at=float(at))
    for request in setup.owed:
        await setup.answers(request, f"answer to {request.message_id}")
    await setup.hears("last", at=100.0)
    told = [line for at in range(8) for line in (f"text {at}", f"answer to text {at}")]
    assert await setup.reads(setup.owed[-1]) == [*told, "last"]
    await storage.close()


async def test_a_prompt_ends_with_its_question_although_more_was_said_since(setup: ConversationsSetup) -> None:
    await setup.hears("first", at=1.0)
    await setup.hears("second", at=2.0)
    assert await setup.reads(setup.owed[0]) == ["first"]
    await setup.answers(setup.owed[0], "answer")
    assert await setup.reads(setup.owed[1]) == ["first", "answer", "second"]


async def test_what_belongs_before_a_message_is_read_with_it_and_once(setup: ConversationsSetup) -> None:
    start = IncomingMessage(CHANNEL, "start", Person("id-ben", "Ben"), "a start", 0.5, addressed=False)
    started = IncomingMessage(THREAD, "start", start.author, start.text, start.sent_at, addressed=False)
    await setup.hears("question", key=THREAD, context=(started,))
    await setup.hears("another", key=THREAD, at=2.0, context=(started,))
    await setup.answers(setup.owed[0], "answer")
    assert await setup.reads(setup.owed[1]) == ["a start", "question", "answer", "another"]


async def test_files_are_read_with_their_message(setup: ConversationsSetup) -> None:
    await setup.hears("look", attachments=(Attachment("a.txt", "alpha"), Attachment("b.txt", "beta")))
    (text,) = await setup.reads(setup.owed[0])
    assert text == "look\n\n[file a.txt]\nalpha\n[end of file]\n\n[file b.txt]\nbeta\n[end of file]"
    assert text_with_files("", (Attachment("a.txt", "alpha"),)) == "[file a.txt]\nalpha\n[end of file]"


async def test_an_edit_and_a_deletion_reach_what_is_read(setup: ConversationsSetup) -> None:
    await setup.hears("one", at=1.0)
    await setup.answers(setup.owed[0], "answer to one")
    await setup.hears("two", at=2.0)
    await setup.conversations.edited(MessageEdited(CHANNEL, "one", ANA, "ONE"))
    assert await setup.reads(setup.owed[1]) == ["ONE", "answer to one", "two"]
    await setup.conversations.deleted(MessageDeleted(CHANNEL, "one"))
    assert await setup.reads(setup.owed[1]) == ["two"]
    await setup.conversations.deleted(MessageDeleted(CHANNEL, "two"))
    assert await setup.conversations.prompt(setup.owed[1]) is None


async def test_a_models_own_temperature_holds_where_none_is_set(tmp_path: Path) -> None:
    storage = await Storage.open(tmp_path / "state")
    try:
        for given, expected in (({}, 0), ({"temperature": 0.5}, 0.5)):
            settings = make_settings(tmp_path, catalog=None, models=(), model="smollm2", **given)
            setup = ConversationsSetup(settings, storage)
            assert (await setup.conversations.request(CHANNEL, "1", ANA)).params.temperature == expected
            another = await setup.conversations.request(CHANNEL, "1", ANA, RequestKind.REGENERATE)
            assert another.params.temperature > 0, "at 0 another answer would be the same"
            assert setup.conversations.params_of({"model": "phi-2"}).temperature == settings.temperature
            assert setup.conversations.params_of({"temperature": "0.3"}).temperature == 0.3
    finally:
        await storage.close()


async def test_settings_come_from_the_thread_then_the_channel_then_the_operator(setup: ConversationsSetup) -> None:
    history = setup.storage.history
    assert (await setup.conversations.request(THREAD, "1", ANA)).params.temperature == 0.7
    await history.set(CHANNEL, "temperature", "0.3")
    await history.set(CHANNEL, "model", "large")
    await history.set(THREAD, "temperature", "0.1")
    request = await setup.conversations.request(THREAD, "1", ANA)
    assert (request.params.temperature, request.model) == (0.1, "large")
    assert (await setup.conversations.request(CHANNEL, "1", ANA)).params.temperature == 0.3
    await history.set(THREAD, "temperature", None)
    assert (await setup.conversations.request(THREAD, "1", ANA)).params.temperature == 0.3
    await history.set(THREAD, "model", "a model that is no longer offered")
    assert (await setup.conversations.request(THREAD, "1", ANA)).model == "small"


@pytest.mark.parametrize(("own", "expected"), [(None, "of the model"), ("Be kind.", "Be kind."), ("", "")])
async def test_the_system_prompt_is_the_conversation_s_the_operator_s_or_the_model_s(
    tmp_path: Path, own: str | None, expected: str
) -> None:
    settings = make_settings(tmp_path, system_prompt=own)
    storage = await Storage.open(settings.state_dir)
    setup = ConversationsSetup(settings, storage)
    of_the_model = Catalog.of(settings).get("small").system
    assert setup.conversations.system_of({}, "small") == (of_the_model if own is None else expected)
    assert setup.conversations.system_of({"system": "Be terse."}, "small") == "Be terse."
    await storage.close()


async def test_another_answer_reads_what_the_first_one_read_and_more_of_an_answer_begins_with_it(
    setup: ConversationsSetup,
) -> None:
    await setup.hears("question", at=1.0)
    await setup.answers(setup.owed[0], "an answer")
    await setup.hears("later", at=2.0)
    await setup.answers(setup.owed[1], "later, too")
    prompts = []
    for kind in (RequestKind.REGENERATE, RequestKind.CONTINUE):
        await setup.conversations.request_again(CHANNEL, "question", ANA, kind)
        prompts.append(await setup.conversations.prompt(setup.owed[-1]))
        await setup.answers(setup.owed[-1], "an answer")
    assert [prompt and [turn.text for turn in prompt.turns] for prompt in prompts] == [["question"], ["question"]]
    assert [prompt and prompt.prefix for prompt in prompts] == ["", "an answer"]


async def test_a_model_that_does_not_load_is_rolled_back_where_it_was_chosen(setup: ConversationsSetup) -> None:
    history = setup.storage.history
    await history.set(CHANNEL, "model", "large")
    await setup.hears("one", key=THREAD, at=1.0)
    await setup.conversations.prompt(setup.owed[0])  # long answers
    await history.set(THREAD, "model", "broken")
    await setup.hears("two", key=THREAD, at=2.0)
    assert await setup.conversations.roll_back(setup.owed[1]) == "large"
    assert (await history.resolved(THREAD))["model"] == "large"
    assert (await history.resolved(CHANNEL))["model"] == "large"


async def test_a_channel_s_model_that_never_answered_is_rolled_back_to_the_default(setup: ConversationsSetup) -> None:
    await setup.storage.history.set(CHANNEL, "model", "broken")
    await setup.hears("one", key=THREAD)
    assert await setup.conversations.roll_back(setup.owed[0]) == "small"
    assert await setup.storage.history.resolved(THREAD) == {}


async def test_two_models_that_both_fail_do_not_alternate(setup: ConversationsSetup) -> None:
    await setup.storage.history.set(CHANNEL, "model", "large")
    await setup.hears("one", key=THREAD)
    await setup.conversations.prompt(setup.owed[0])  # large answers
    assert await setup.conversations.roll_back(setup.owed[0]) == "small"
    assert await setup.conversations.roll_back(replace(setup.owed[0], model="small")) is None


async def test_the_default_model_cannot_be_rolled_back(setup: ConversationsSetup) -> None:
    await setup.hears("one")
    assert await setup.conversations.roll_back(setup.owed[0]) is None


async def test_a_thread_that_the_bot_takes_part_in_goes_on_without_a_mention(setup: ConversationsSetup) -> None:
    assert await setup.hears("before", key=THREAD, addressed=False) == Accepted()
    await setup.hears("hello", key=THREAD)
    await setup.hears("and now?", key=THREAD, addressed=False, at=2.0)
    assert await setup.hears("elsewhere", key=CHANNEL, addressed=False) == Accepted()
    assert [request.message_id for request in setup.owed] == ["hello", "and now?"]
    assert await setup.reads(setup.owed[1]) == ["hello", "and now?"]


async def test_a_late_message_of_before_the_bot_was_asked_gets_no_answer(setup: ConversationsSetup) -> None:
    await setup.hears("hello", key=THREAD, at=2.0)
    assert await setup.hears("before", key=THREAD, addressed=False, at=1.0) == Accepted()
    await setup.hears("and now?", key=THREAD, addressed=False, at=3.0)
    assert [request.message_id for request in setup.owed] == ["hello", "and now?"]


async def test_following_threads_can_be_switched_off(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, follow_threads=False)
    storage = await Storage.open(settings.state_dir)
    setup = ConversationsSetup(settings, storage)
    await setup.hears("hello", key=THREAD)
    assert await setup.hears("and now?", key=THREAD, addressed=False) == Accepted()
    assert len(setup.owed) == 1
    await storage.close()


async def test_a_full_queue_refuses_until_the_user_has_a_place(setup: ConversationsSetup) -> None:
    for text in ("one", "two"):
        await setup.hears(text)
    message = IncomingMessage(CHANNEL, "three", ANA, "three", 3.0, addressed=True)
    waiting = asyncio.create_task(setup.conversations.wait_for_place(message))
    assert isinstance(await setup.hears("three"), Refused)
    assert not waiting.done()
    await setup.answers(setup.owed[0], "1")
    await asyncio.wait_for(waiting, 20)
    assert await setup.conversations.message(message) == Accepted(setup.owed[-1].request_id)


async def test_a_remark_goes_with_the_request_and_says_why_there_is_nothing_to_answer(
    setup: ConversationsSetup,
) -> None:
    await setup.hears("hello", remark="I could not read a.png.")
    assert setup.owed[0].remark == "I could not read a.png."
    assert await setup.hears("", message_id="2", remark="I see no images.") == Refused("I see no images.")


@pytest.mark.parametrize("text", ["\ud83d", "a\udcffb", "\x00", "\u202eabc", "🙂" * 3, "x" * 100_000])
async def test_text_that_no_one_would_write_is_stored_and_read_like_any_other(
    setup: ConversationsSetup, text: str
) -> None:
    who = Person("id-odd", f"Odd {text[:10]}")
    assert await setup.hears(text, message_id="odd", who=who) == Accepted(setup.owed[0].request_id)
    assert await setup.reads(setup.owed[0]) == [text.encode("utf-8", "replace").decode()]
