"""Tests the backfill on Slack: channels, threads and direct messages, each message once."""

import asyncio
from pathlib import Path

import pytest

from bot.types.errors import Gone, Rejected
from tests.support.builders.platform_services import only_asked
from tests.support.builders.slack_adapter import Stage, key_of, on_stage
from tests.support.builders.slack_service import answered_once, open_house
from tests.support.fakes.slack_server import FakeSlack, Message

pytest_plugins = ["tests.support.fixtures.slack"]


async def read(stage: Stage, key_of_what: Message, after: Message, limit: int = 50) -> list[tuple[str, str]]:
    """Fetches the messages of a conversation after a message: texts with their threads."""
    key = key_of(key_of_what.channel, key_of_what.thread_ts)
    found = await stage.adapter.fetch_since(key, after.ts, limit)
    return [(event.text, event.key.thread) for event in found]


async def test_a_channel_is_read_back_oldest_first_without_bots_and_commands() -> None:
    async with on_stage() as stage:
        first = await stage.ana.says(stage.general, "heard", mention=True)
        said = [await stage.ana.says(stage.general, f"number {number}", mention=True) for number in range(3)]
        await stage.ana.says(stage.general, "!stop")
        await stage.server.user("other", bot=True).says(stage.general, "beep")
        await stage.ben.says(stage.general, "just talk")
        wanted = [(f"number {number}", message.ts) for number, message in enumerate(said)]
        assert await read(stage, first, first) == [*wanted, ("just talk", "")]
        assert await read(stage, first, first, limit=2) == wanted[:2]
        assert await read(stage, first, said[-1]) == [("just talk", "")]


async def test_more_than_a_page_is_read_to_its_beginning() -> None:
    async with on_stage() as stage:
        first = await stage.ana.says(stage.general, "heard", mention=True)
        stage.server._world.page_limit = 3
        for number in range(8):
            await stage.ana.says(stage.general, f"number {number}", mention=True)
        texts = [text for text, _ in await read(stage, first, first, limit=5)]
        assert texts == [f"number {number}" for number in range(5)]


async def test_what_was_said_in_an_older_thread_is_found_from_its_channel() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "a question", mention=True)
        elsewhere = await stage.ben.says(stage.general, "another story")
        last = await stage.ben.says(stage.general, "heard", mention=True)
        stage.core.followed.add(key_of(stage.general, question))
        await stage.ana.says(stage.general, "and now?", thread=question)
        await stage.ana.says(stage.general, "look", mention=True, thread=elsewhere)
        found = await stage.adapter.fetch_since(key_of(stage.general), last.ts, 50)
        assert [(event.text, event.key.thread, event.addressed) for event in found] == [
            ("and now?", question.ts, False),
            ("look", elsewhere.ts, True),
        ]
        (story,) = found[1].context
        assert story.text == "another story"


async def test_a_thread_is_read_back_by_itself() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "a question", mention=True)
        inside = await stage.ana.says(stage.general, "and?", thread=question)
        await stage.ben.says(stage.general, "more", thread=question)
        await stage.ben.says(stage.general, "outside", mention=True)
        assert await read(stage, inside, inside) == [("more", question.ts)]


async def test_a_chat_that_began_meanwhile_is_found_from_the_last_one() -> None:
    async with on_stage() as stage:
        dm, thread = await stage.ana.opens_assistant()
        heard = await stage.ana.says(dm, "the first chat", thread=thread)
        _, other = await stage.ana.opens_assistant()
        await stage.ana.says(dm, "the second chat", thread=other)
        await stage.ana.says(dm, "on in the first", thread=thread)
        assert await read(stage, heard, heard) == [("the second chat", other), ("on in the first", thread)]


async def test_what_is_too_old_uses_up_none_of_the_limit() -> None:
    async with on_stage(catchup_age=0.2) as stage:
        first = await stage.ana.says(stage.general, "heard", mention=True)
        await stage.ana.says(stage.general, "too old", mention=True)
        await asyncio.sleep(0.3)
        await stage.ana.says(stage.general, "just now", mention=True)
        assert [text for text, _ in await read(stage, first, first, limit=1)] == ["just now"]


async def test_a_channel_that_cannot_be_read_is_said() -> None:
    async with on_stage() as stage:
        first = await stage.ana.says(stage.general, "heard", mention=True)
        stage.server.scopes.discard("channels:history")
        with pytest.raises(Rejected):
            await read(stage, first, first)
        stage.server.scopes.add("channels:history")
        stage.general.deleted = True
        with pytest.raises(Gone):
            await read(stage, first, first)


@pytest.mark.fault(11)
async def test_a_channel_that_was_never_heard_is_not_read_back(tmp_path: Path, slack_server: FakeSlack) -> None:
    old = slack_server.channel("old")
    slack_server.subscribe_only()
    await slack_server.user("cleo").says(old, "years ago", mention=True)
    slack_server.subscribe_only("app_mention", "message.channels")
    async with open_house(tmp_path, slack_server) as house:
        question = await house.ana.says(house.general, "hello", mention=True)
        await answered_once(house, question)
        await only_asked(house, "hello")
        assert not old.messages


async def test_what_was_said_while_no_socket_was_open_is_read_back(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with open_house(tmp_path, slack_server) as house:
        first = await house.ana.says(house.general, "one", mention=True)
        await house.answer_to(first)
        slack_server.subscribe_only()
        inside = await house.ben.says(house.general, "and two?", thread=first)
        slack_server.sockets.kill()
        await slack_server.until(lambda: house.answers_to(inside))
        assert [each.shown for each in house.answers_to(inside)] == ["You said: and two?"]
