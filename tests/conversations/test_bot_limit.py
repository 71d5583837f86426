"""Tests the limit on messages of bots: a loop of two bots ends, a person starts the count again."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bot.conversations.bot_limit import LIMIT_REACHED, MAX_CONVERSATIONS, MAX_IN_A_ROW, QUIET_S, BotLimit
from bot.storage import Storage
from bot.types.messages import Accepted, IncomingMessage, Outcome, Person, Refused
from tests.support.builders.conversations import ANA, CHANNEL, THREAD, ConversationsSetup
from tests.support.builders.service import make_settings

BOT = Person("id-bot", "Alerts", is_bot=True)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[ConversationsSetup]:
    settings = make_settings(tmp_path, queue_size=100, per_user=100)
    storage = await Storage.open(settings.state_dir)
    yield ConversationsSetup(settings, storage)
    await storage.close()


def message(number: int, **more: object) -> IncomingMessage:
    values = {"author": BOT, "text": "hi", "sent_at": 1.0, "addressed": True, "key": CHANNEL, **more}
    return IncomingMessage(message_id=str(number), **values)  # type: ignore[arg-type]  # the fields of a message


async def test_a_loop_of_bots_ends_with_one_sentence_and_a_person_starts_it_again(setup: ConversationsSetup) -> None:
    async def bot(text: str) -> Outcome:
        return await setup.hears(text, who=BOT)

    loop = [await bot(f"bot {number}") for number in range(MAX_IN_A_ROW + 3)]
    assert len(setup.owed) == MAX_IN_A_ROW
    assert loop[MAX_IN_A_ROW:] == [Refused(LIMIT_REACHED), Accepted(), Accepted()]
    assert await bot(f"bot {MAX_IN_A_ROW}") == Accepted(), "a second delivery gets no second sentence"
    assert await setup.hears("elsewhere", who=BOT, key=THREAD) != Accepted(), "each conversation has its own count"
    await setup.hears("a person, beside the bot", addressed=False)
    assert await bot("again") == Accepted(setup.owed[-1].request_id)


async def test_a_person_who_asks_about_a_bots_message_is_not_limited(setup: ConversationsSetup) -> None:
    for number in range(MAX_IN_A_ROW + 2):
        assert await setup.hears(f"bot {number}", who=BOT, asker=ANA) == Accepted(setup.owed[-1].request_id)


async def test_a_message_delivered_twice_counts_once(setup: ConversationsSetup) -> None:
    for number in range(MAX_IN_A_ROW):
        await setup.hears(f"bot {number}", who=BOT)
        assert await setup.hears(f"bot {number}", who=BOT) == Accepted()
    assert len(setup.owed) == MAX_IN_A_ROW


async def test_what_is_refused_counts_too_since_the_refusal_is_shown_in_the_channel(setup: ConversationsSetup) -> None:
    empty = [await setup.hears("", message_id=str(number), who=BOT) for number in range(MAX_IN_A_ROW + 2)]
    assert empty[MAX_IN_A_ROW - 1] != Refused(LIMIT_REACHED)
    assert empty[MAX_IN_A_ROW:] == [Refused(LIMIT_REACHED), Accepted()]


async def test_a_followed_thread_answers_bots_only_when_they_mention_the_bot(setup: ConversationsSetup) -> None:
    await setup.hears("a question", key=THREAD)
    assert await setup.hears("not for the bot", key=THREAD, who=BOT, addressed=False) == Accepted()
    assert await setup.hears("from a person", key=THREAD, addressed=False) != Accepted()


def test_messages_that_start_a_thread_each_count_in_their_channel() -> None:
    limit = BotLimit()
    starts = [limit.check(message(n, key=replace(CHANNEL, thread=str(n)))) for n in range(MAX_IN_A_ROW + 1)]
    assert starts == [None] * MAX_IN_A_ROW + [Refused(LIMIT_REACHED)]


def test_an_hour_without_bots_starts_the_count_again() -> None:
    now = 0.0
    limit = BotLimit(lambda: now)
    for number in range(MAX_IN_A_ROW):
        assert limit.check(message(number)) is None
        now += QUIET_S
    assert limit.check(message(100)) == Refused(LIMIT_REACHED)
    now += QUIET_S + 1
    assert limit.check(message(101)) is None


def test_only_so_many_conversations_are_remembered() -> None:
    limit = BotLimit()
    for number in range(2 * MAX_IN_A_ROW):
        limit.check(message(number))
    for number in range(MAX_CONVERSATIONS):
        limit.check(message(number, key=replace(CHANNEL, channel=str(number))))
    assert limit.check(message(200)) is None
