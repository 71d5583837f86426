"""Tests whole answers on Slack through the real delivery and outbox: each message once, in order, and complete."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bot.observability.metrics import Metrics
from bot.replies.delivery import Delivery
from bot.replies.renderer import Renderer
from bot.storage import Storage
from bot.types.messages import FinishReason, Reply
from bot.types.messages import Person as Author
from tests.support.builders.slack_adapter import SlackAdapterSetup, key_of, run_slack_adapter
from tests.support.builders.storage_rows import ask, asked
from tests.support.fakes.slack_server import FakeSlack, Message

POST, UPDATE, START, APPEND = "chat.postMessage", "chat.update", "chat.startStream", "chat.appendStream"
CODE = "\n".join(f"line_{number} = '<{number:070}>' && True" for number in range(108))
LONG = f"Here & now:\n\n```python\n{CODE}\n```\n\nThat is all."


@dataclass
class Answer:
    """An unfinished answer to a question in a channel, and the bot's messages there."""

    setup: SlackAdapterSetup
    question: Message
    composer: Renderer
    delivery: Delivery

    @property
    def messages(self) -> list[Message]:
        """The bot's messages without file messages."""
        return [message for message in self.setup.general.messages if not message.files]

    def writes(self, text: str) -> None:
        """Shows this much of the answer."""

        async def compose() -> list[Reply]:
            return self.composer.render_partial(text, "")

        self.delivery.grow(compose)

    def ends(self, text: str) -> None:
        """Shows and stores the final answer."""
        self.delivery.show(self.composer.render_final(text, FinishReason.STOP, None, ""))

    async def shows(self, words: str) -> None:
        """Waits until a message ends with these words."""
        await self.setup.server.until(lambda: any(each.shown.strip().endswith(words) for each in self.messages))


@asynccontextmanager
async def answering(root: Path, server: FakeSlack | None = None, *, streams: bool = True) -> AsyncIterator[Answer]:
    """Asks a question in a channel, and runs a delivery until the final text is posted."""
    async with run_slack_adapter(server) as setup:
        setup.server.streams_enabled = streams
        storage = await Storage.open(root)
        await ask(storage, "question")
        question = await setup.ana.says(setup.general, "tell me", mention=True)
        request = replace(
            asked("question"),
            key=key_of(setup.general, question),
            message_id=question.ts,
            author=Author(setup.ana.id, setup.ana.name),
        )
        delivery = Delivery(setup.adapter, storage.outbox, Metrics())
        running = asyncio.create_task(delivery.run())
        try:
            yield Answer(setup, question, Renderer(request, setup.adapter.limits), delivery)
            await asyncio.wait_for(running, 30)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await storage.close()
            assert setup.server.rate_limited == 0


@pytest.mark.fault(24)
@pytest.mark.parametrize("streams", [True, False])
async def test_a_long_answer_comes_in_ordered_parts_with_whole_fences(tmp_path: Path, streams: bool) -> None:
    async with answering(tmp_path, streams=streams) as answer:
        answer.writes(LONG[:600])
        await answer.setup.server.until(lambda: answer.messages)
        answer.writes(LONG[:6000])
        await answer.setup.server.until(lambda: len(answer.messages) == 2)
        answer.ends(LONG)
    parts = answer.messages
    assert len(parts) >= 3
    assert [message.ts for message in parts] == sorted(message.ts for message in parts)
    assert all(message.thread_ts == answer.question.ts for message in parts)
    assert all(len(message.blocks[0]["text"]) <= 3800 for message in parts)
    assert all(message.shown.count("```") == 2 for message in parts)
    lines = [line for message in parts for line in message.shown.splitlines() if line.startswith("line_")]
    assert lines == CODE.splitlines()
    assert parts[0].shown.startswith("Here & now:")
    assert parts[-1].shown.endswith("That is all.")
    assert [message.labels for message in parts] == [["Regenerate"], *[[]] * (len(parts) - 1)]
    assert not any(message.pings or message.streaming for message in parts)


@pytest.mark.fault(16)
@pytest.mark.fault(17)
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("lost", [True, False])
async def test_an_answer_whose_first_post_failed_is_one_message(tmp_path: Path, streams: bool, lost: bool) -> None:
    async with answering(tmp_path, streams=streams) as answer:
        faults, method = answer.setup.server.faults, START if streams else POST
        fault = faults.drop(method, applied=True) if lost else faults.answer(method, status=502)
        answer.writes("One two ")
        await answer.shows("One two")
        answer.ends("One two three.")
    assert fault.hits == 1
    assert [message.shown for message in answer.messages] == ["One two three."]


@pytest.mark.fault(23)
@pytest.mark.parametrize("method", [UPDATE, APPEND])
async def test_more_text_that_is_refused_half_way_is_in_the_end(tmp_path: Path, method: str) -> None:
    async with answering(tmp_path, streams=method is APPEND) as answer:
        answer.writes("One ")
        await answer.shows("One")
        refused = answer.setup.server.faults.refuse(method, "cant_update_message", times=2)
        answer.writes("One two ")
        await answer.setup.server.until(lambda: refused.hits)
        answer.ends("One two three.")
    assert answer.messages[-1].shown == "One two three."


@pytest.mark.fault(23)
async def test_a_final_text_that_cannot_be_edited_in_comes_as_a_message_of_its_own(tmp_path: Path) -> None:
    async with answering(tmp_path, streams=False) as answer:
        answer.writes("One ")
        await answer.shows("One")
        answer.setup.server.faults.refuse(UPDATE, "edit_window_closed", times=100)
        answer.ends("One two three.")
    assert [message.shown.strip() for message in answer.messages] == ["One", "One two three."]


@pytest.mark.fault(22)
async def test_what_is_deleted_meanwhile_is_dropped_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering(tmp_path) as answer:
        answer.writes("One ")
        await answer.shows("One")
        answer.messages[0].deleted = True
        answer.writes("One two ")
        answer.ends("One two three.")
    assert answer.messages == []
    assert caplog.text.count("not on Slack any more") == 1


async def test_a_stream_that_slack_closes_loses_no_word(tmp_path: Path) -> None:
    async with answering(tmp_path) as answer:
        answer.writes("One ")
        await answer.shows("One")
        answer.setup.server.clock.advance(301)
        answer.writes("One two ")
        await answer.shows("One two")
        answer.ends("One two three.")
    assert [message.shown for message in answer.messages] == ["One two three."]


async def test_a_limit_on_edits_is_waited_for(tmp_path: Path) -> None:
    async with answering(tmp_path, streams=False) as answer:
        answer.writes("One ")
        await answer.shows("One")
        answer.setup.server.limits.exhaust(UPDATE, 1.0)
        answer.ends("One two three.")
        await answer.shows("three.")
        assert answer.setup.server.log.count(UPDATE, status=429) == 1
        answer.setup.server.log.calls.clear()
    assert [message.shown for message in answer.messages] == ["One two three."]
