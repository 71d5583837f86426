"""Tests the backfill on Slack: channels, threads and direct messages, each message once."""

import asyncio
from pathlib import Path

import pytest

from bot.types.errors import Gone, Rejected
from tests.support.builders.platform_services import only_asked
from tests.support.builders.slack_adapter import SlackAdapterSetup, key_of, run_slack_adapter
from tests.support.builders.slack_service import answered_once, run_slack_service
from tests.support.fakes.slack_server import FakeSlack, Message

pytest_plugins = ["tests.support.fixtures.slack"]


async def read(
    setup: SlackAdapterSetup, key_of_what: Message, after: Message, limit: int = 50
) -> list[tuple[str, str]]:
    """Fetches the messages of a conversation after a message: texts with their threads."""
    key = key_of(key_of_what.channel, key_of_what.thread_ts)
    found = await setup.adapter.fetch_since(key, after.ts, limit)
    return [(event.text, event.key.thread) for event in found]


async def test_a_channel_is_read_back_oldest_first_without_bots_and_commands() -> None:
    async with run_slack_adapter() as setup:
        first = await setup.ana.says(setup.general, "heard", mention=True)
        said = [await setup.ana.says(setup.general, f"number {number}", mention=True) for number in range(3)]
        await setup.ana.says(setup.general, "!stop", mention=True)
        await setup.server.user("other", bot=True).says(setup.general, "beep")
        await setup.ben.says(setup.general, "just talk")
        wanted = [(f"number {number}", message.ts) for number, message in enumerate(said)]
        assert await read(setup, first, first) == [*wanted, ("just talk", "")]
        assert await read(setup, first, first, limit=2) == wanted[:2]
        assert await read(setup, first, said[-1]) == [("just talk", "")]


async def test_more_than_a_page_is_read_to_its_beginning() -> None:
    async with run_slack_adapter() as setup:
        first = await setup.ana.says(setup.general, "heard", mention=True)
        setup.server.store.page_limit = 3
        for number in range(8):
            await setup.ana.says(setup.general, f"number {number}", mention=True)
        texts = [text for text, _ in await read(setup, first, first, limit=5)]
        assert texts == [f"number {number}" for number in range(5)]


async def test_what_was_said_in_an_older_thread_is_found_from_its_channel() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "a question", mention=True)
        elsewhere = await setup.ben.says(setup.general, "another story")
        last = await setup.ben.says(setup.general, "heard", mention=True)
        setup.core.followed.add(key_of(setup.general, question))
        await setup.ana.says(setup.general, "and now?", thread=question)
        await setup.ana.says(setup.general, "look", mention=True, thread=elsewhere)
        found = await setup.adapter.fetch_since(key_of(setup.general), last.ts, 50)
        assert [(event.text, event.key.thread, event.addressed) for event in found] == [
            ("and now?", question.ts, False),
            ("look", elsewhere.ts, True),
        ]
        (story,) = found[1].context
        assert story.text == "another story"


async def test_a_thread_is_read_back_by_itself() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "a question", mention=True)
        inside = await setup.ana.says(setup.general, "and?", thread=question)
        await setup.ben.says(setup.general, "more", thread=question)
        await setup.ben.says(setup.general, "outside", mention=True)
        assert await read(setup, inside, inside) == [("more", question.ts)]


async def test_a_chat_that_began_meanwhile_is_found_from_the_last_one() -> None:
    async with run_slack_adapter() as setup:
        dm, thread = await setup.ana.opens_assistant()
        heard = await setup.ana.says(dm, "the first chat", thread=thread)
        _, other = await setup.ana.opens_assistant()
        await setup.ana.says(dm, "the second chat", thread=other)
        await setup.ana.says(dm, "on in the first", thread=thread)
        assert await read(setup, heard, heard) == [("the second chat", other), ("on in the first", thread)]


async def test_what_is_too_old_uses_up_none_of_the_limit() -> None:
    async with run_slack_adapter(catchup_age=0.2) as setup:
        first = await setup.ana.says(setup.general, "heard", mention=True)
        await setup.ana.says(setup.general, "too old", mention=True)
        await asyncio.sleep(0.3)
        await setup.ana.says(setup.general, "just now", mention=True)
        assert [text for text, _ in await read(setup, first, first, limit=1)] == ["just now"]


async def test_a_channel_that_cannot_be_read_is_said() -> None:
    async with run_slack_adapter() as setup:
        first = await setup.ana.says(setup.general, "heard", mention=True)
        setup.server.scopes.discard("channels:history")
        with pytest.raises(Rejected):
            await read(setup, first, first)
        setup.server.scopes.add("channels:history")
        setup.general.deleted = True
        with pytest.raises(Gone):
            await read(setup, first, first)


@pytest.mark.fault(11)
async def test_a_channel_that_was_never_heard_is_not_read_back(tmp_path: Path, slack_server: FakeSlack) -> None:
    old = slack_server.channel("old")
    slack_server.subscribe_only()
    await slack_server.user("cleo").says(old, "years ago", mention=True)
    slack_server.subscribe_only("app_mention", "message.channels")
    async with run_slack_service(tmp_path, slack_server) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await answered_once(setup, question)
        await only_asked(setup, "hello")
        assert not old.messages


async def test_what_was_said_while_no_socket_was_open_is_read_back(tmp_path: Path, slack_server: FakeSlack) -> None:
    async with run_slack_service(tmp_path, slack_server) as setup:
        first = await setup.ana.says(setup.general, "one", mention=True)
        await setup.answer_to(first)
        slack_server.subscribe_only()
        inside = await setup.ben.says(setup.general, "and two?", thread=first)
        slack_server.sockets.kill()
        await slack_server.until(lambda: setup.answers_to(inside))
        assert [each.shown for each in setup.answers_to(inside)] == ["You said: and two?"]
