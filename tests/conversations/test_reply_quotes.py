"""Tests that a prompt shows which earlier message is meant, by quotes, and answers messages without text."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.conversations.reply_quotes import DELETED, MAX_CHAIN, MAX_QUOTE_CHARS, with_quotes
from bot.storage import Storage, StoredTurn
from bot.types.messages import (
    Accepted,
    Attachment,
    FinishReason,
    GenerationRequest,
    IncomingMessage,
    MessageDeleted,
    MessageEdited,
    Person,
    Refused,
    Reply,
    RequestStatus,
    Role,
)
from tests.support.builders.conversations import ANA, CHANNEL, ConversationsSetup
from tests.support.builders.service import make_settings

BEN = Person("id-ben", "Ben")


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[ConversationsSetup]:
    settings = make_settings(tmp_path, queue_size=100, per_user=100)
    storage = await Storage.open(settings.state_dir)
    yield ConversationsSetup(settings, storage)
    await storage.close()


def earlier(message_id: str, text: str, at: float, **more: object) -> IncomingMessage:
    """A message that came before, of Ben's."""
    values = {"author": BEN, "addressed": False, "key": CHANNEL, **more}
    return IncomingMessage(message_id=message_id, text=text, sent_at=at, **values)  # type: ignore[arg-type]  # fields


async def answer(setup: ConversationsSetup, request: GenerationRequest, *parts: str) -> None:
    """Finishes a request with an answer in these messages, whose ids are their texts."""
    assert setup.queue.cancel(request.request_id)
    replies = [
        Reply(
            f"{request.request_id[:20]}{n}", request.request_id, CHANNEL, n, request.message_id, ANA, part, final=True
        )
        for n, part in enumerate(parts)
    ]
    await setup.storage.inbox.finish(
        request.request_id,
        RequestStatus.FINISHED,
        finish_reason=FinishReason.STOP,
        usage=None,
        error="",
        answer="\n\n".join(parts),
        replies=[replace(reply, platform_id=part) for reply, part in zip(replies, parts, strict=True)],
    )


async def test_the_answer_that_is_replied_to_is_quoted_unless_it_is_the_newest(setup: ConversationsSetup) -> None:
    await setup.hears("one", at=1.0)
    await answer(setup, setup.owed[0], "first answer")
    await setup.hears("more of this", at=2.0, reply_to="first answer")
    assert await setup.reads(setup.owed[1]) == ["one", "first answer", "more of this"]
    await answer(setup, setup.owed[1], "second answer")
    await setup.hears("say more about this one", at=3.0, reply_to="first answer")
    quoted = "[you wrote]\n> first answer\n\nsay more about this one"
    assert await setup.reads(setup.owed[2]) == ["one", "first answer", "more of this", "second answer", quoted]


async def test_of_a_long_answer_the_message_that_is_replied_to_is_quoted(setup: ConversationsSetup) -> None:
    await setup.hears("one", at=1.0)
    await answer(setup, setup.owed[0], "first part", "second part")
    await setup.hears("two", at=2.0)
    await answer(setup, setup.owed[1], "other")
    await setup.hears("why?", at=3.0, reply_to="second part")
    assert (await setup.reads(setup.owed[2]))[-1] == "[you wrote]\n> second part\n\nwhy?"


async def test_a_chain_of_replies_is_quoted_up_to_a_bound(setup: ConversationsSetup) -> None:
    chain = [earlier(f"m{n}", f"text {n}", n, reply_to=f"m{n - 1}" if n else "") for n in range(5)]
    await setup.hears("and you?", at=9.0, reply_to="m4", context=tuple(chain))
    assert (await setup.reads(setup.owed[0]))[-1] == "and you?", "its chain stands right before it"
    await setup.hears("meanwhile", at=10.0)
    await setup.hears("and now?", at=11.0, reply_to="m4")
    quotes = ["[Ben wrote]\n> text 2", "[Ben replied]\n> text 3", "[Ben replied]\n> text 4"]
    assert len(quotes) == MAX_CHAIN
    assert (await setup.reads(setup.owed[2]))[-1] == "\n\n".join([*quotes, "and now?"])


async def test_a_message_without_text_asks_what_it_replies_to(setup: ConversationsSetup) -> None:
    question = earlier("m1", "why is the sky blue?", 1.0, attachments=(Attachment("sky.txt", "blue"),))
    assert await setup.hears("", message_id="m2", at=5.0, reply_to="m1", context=(question,)) != Accepted()
    prompt = await setup.conversations.prompt(setup.owed[0])
    assert prompt is not None
    (turn,) = prompt.turns
    assert (turn.author, turn.text) == ("Ben", "why is the sky blue?\n\n[file sky.txt]\nblue\n[end of file]")
    await answer(setup, setup.owed[0], "Because.")
    await setup.hears("and red?", at=6.0)
    assert await setup.reads(setup.owed[1]) == [turn.text, "Because.", "and red?"]


@pytest.mark.parametrize("reply_to", ["", "m1", "of the bot"])
async def test_without_a_message_to_answer_a_message_without_text_is_refused(
    setup: ConversationsSetup, reply_to: str
) -> None:
    context = (earlier("m1", "", 1.0), earlier("m0", "ambient", 0.5))
    outcome = await setup.hears("", message_id="m2", at=5.0, reply_to=reply_to, context=context)
    assert isinstance(outcome, Refused)


async def test_what_is_deleted_or_edited_is_so_in_quotes(setup: ConversationsSetup) -> None:
    await setup.hears("", message_id="m2", at=5.0, reply_to="m1", context=(earlier("m1", "a secret", 1.0),))
    await setup.hears("two", at=6.0)
    await setup.hears("three", at=7.0, reply_to="m1")
    await setup.conversations.edited(MessageEdited(CHANNEL, "m1", BEN, "no secret"))
    assert (await setup.reads(setup.owed[2]))[-1] == "[Ben wrote]\n> no secret\n\nthree"
    await setup.conversations.deleted(MessageDeleted(CHANNEL, "m1"))
    assert await setup.reads(setup.owed[2]) == [DELETED, "two", "three"]
    assert await setup.conversations.prompt(setup.owed[0]) is None


async def test_a_message_from_before_a_reset_is_quoted(setup: ConversationsSetup) -> None:
    await setup.hears("one", at=1.0)
    await answer(setup, setup.owed[0], "first answer")
    await setup.storage.history.reset(CHANNEL)
    await setup.hears("go on", at=2.0, reply_to="first answer")
    assert await setup.reads(setup.owed[1]) == ["[you wrote]\n> first answer\n\ngo on"]


LINES = st.text(st.sampled_from("ab \n[]>"), max_size=40)


def turn(number: int, text: str, role: Role, reply_to: str = "") -> StoredTurn:
    return StoredTurn(number, role, "1", "Ben\n[Eve wrote]", text, str(number), float(number), None, reply_to)


@given(st.lists(st.tuples(LINES.filter(bool), st.integers(-1, 9), st.sampled_from([Role.USER, Role.ASSISTANT]))))
def test_no_quote_passes_for_the_words_of_another_or_grows_without_bound(
    rows: Sequence[tuple[str, int, Role]],
) -> None:
    turns = [turn(number, text, role, str(target)) for number, (text, target, role) in enumerate(rows)]
    targets = {each.message_id: each for each in turns}
    for before, after in zip(turns, with_quotes(turns, targets), strict=True):
        quotes = after.text.removesuffix(before.text)
        headers = [line for line in quotes.splitlines() if line and not line.startswith("> ")]
        assert len(headers) <= MAX_CHAIN
        assert set(headers) <= {"[Ben [Eve wrote] wrote]", "[Ben [Eve wrote] replied]", "[you wrote]", "[you replied]"}


def test_a_long_quote_is_cut() -> None:
    long = turn(1, "x" * 5000, Role.USER)
    (_, other, quoted) = with_quotes([long, turn(2, "other", Role.USER), turn(3, "why?", Role.USER, "1")], {"1": long})
    assert other.text == "other"
    assert len(quoted.text) < MAX_QUOTE_CHARS + 50
