"""Tests the fake's native streams with the real slack_sdk: its helper, its chunks, and ends of a stream."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from slack_sdk.errors import SlackApiError
from slack_sdk.models.blocks import DividerBlock
from slack_sdk.models.messages.chunk import BlocksChunk, Chunk, MarkdownTextChunk
from slack_sdk.models.metadata import Metadata
from slack_sdk.web.async_client import AsyncWebClient

from tests.support.fakes.slack_server import Channel, FakeSlack, Message, Person

TEAM = "T0WORKSHOP1"
BUTTONS: list[dict[str, Any]] = [  # Any: a block is JSON
    {
        "type": "actions",
        "elements": [{"type": "button", "text": {"type": "plain_text", "text": "Again"}, "action_id": "again"}],
    }
]


class StreamSetup:
    """A thread, and a client that streams into it."""

    def __init__(self, server: FakeSlack, ana: Person, general: Channel, question: Message) -> None:
        self.server, self.ana, self.general, self.question = server, ana, general, question
        self.web = AsyncWebClient(token=server.bot_token, base_url=server.api_url, retry_handlers=[])

    async def begin(self, text: str | None = "One ", **others: Any) -> str:  # Any: further arguments of the call
        """Starts a stream; its ts."""
        begun = await self.web.chat_startStream(
            channel=self.general.id,
            thread_ts=self.question.ts,
            recipient_user_id=self.ana.id,
            recipient_team_id=TEAM,
            markdown_text=text,
            **others,
        )
        return str(begun["ts"])

    async def append(self, ts: str, text: str) -> None:
        """Appends text."""
        await self.web.chat_appendStream(channel=self.general.id, ts=ts, markdown_text=text)


@pytest_asyncio.fixture
async def setup() -> AsyncIterator[StreamSetup]:
    """A question in a channel."""
    async with FakeSlack() as server:
        ana, general = server.user("ana"), server.channel("general")
        yield StreamSetup(server, ana, general, await ana.says(general, "hello", mention=True))


async def test_the_helper_of_the_sdk_streams_from_start_to_stop(setup: StreamSetup) -> None:
    stream = await setup.web.chat_stream(
        channel=setup.general.id,
        thread_ts=setup.question.ts,
        recipient_user_id=setup.ana.id,
        recipient_team_id=TEAM,
        buffer_size=4,
    )
    await stream.append(markdown_text="One, two, ")
    await stream.append(markdown_text="&lt;three&gt;")
    await stream.stop(blocks=BUTTONS)
    answer = setup.general.messages[0]
    assert answer.shown == "One, two, <three>"
    assert answer.thread_ts == setup.question.ts
    assert answer.labels == ["Again"]
    assert not answer.streaming
    assert not setup.server.pings


async def test_chunks_of_text_and_blocks_stand_in_their_order(setup: StreamSetup) -> None:
    chunks: list[dict[str, Any] | Chunk] = [  # Any: a chunk is JSON
        MarkdownTextChunk(text="One"),
        BlocksChunk(blocks=[DividerBlock()]),
        MarkdownTextChunk(text="two"),
    ]
    await setup.begin(None, chunks=chunks)
    assert [block["type"] for block in setup.general.messages[0].blocks] == ["markdown", "divider", "markdown"]


async def test_a_workspace_may_take_text_only(setup: StreamSetup) -> None:
    setup.server.block_chunks = False
    with pytest.raises(SlackApiError, match="invalid_chunks"):
        await setup.begin(None, chunks=[BlocksChunk(blocks=[DividerBlock()])])
    assert not setup.general.messages


async def test_a_channel_wants_to_know_for_whom_and_a_direct_message_does_not(setup: StreamSetup) -> None:
    with pytest.raises(SlackApiError, match="missing_recipient_team_id"):
        await setup.web.chat_startStream(
            channel=setup.general.id, thread_ts=setup.question.ts, recipient_user_id=setup.ana.id
        )
    dm = setup.server.dm(setup.ana)
    asked = await setup.ana.says(dm, "hello")
    await setup.web.chat_startStream(channel=dm.id, thread_ts=asked.ts, markdown_text="hi")
    assert dm.messages[0].text == "hi"


async def test_a_stream_needs_a_thread_that_is_there(setup: StreamSetup) -> None:
    arguments = {"channel": setup.general.id, "recipient_user_id": setup.ana.id, "recipient_team_id": TEAM}
    with pytest.raises(SlackApiError, match="invalid_arguments"):
        await setup.web.api_call("chat.startStream", json=arguments)
    with pytest.raises(SlackApiError, match="thread_not_found"):
        await setup.web.api_call("chat.startStream", json=arguments | {"thread_ts": "1.000001"})


@pytest.mark.parametrize("blocks", [False, True])
async def test_a_piece_of_12_001_characters_is_too_long_and_is_not_taken(setup: StreamSetup, blocks: bool) -> None:
    ts = await setup.begin("kept")
    if blocks:
        long = [MarkdownTextChunk(text="x" * 12_001)]
        call = setup.web.chat_appendStream(channel=setup.general.id, ts=ts, chunks=long)
    else:
        call = setup.web.chat_appendStream(channel=setup.general.id, ts=ts, markdown_text="x" * 12_001)
    with pytest.raises(SlackApiError, match="msg_too_long"):
        await call
    assert setup.general.messages[0].text == "kept"


async def test_history_has_the_metadata_only_once_the_stream_is_stopped(setup: StreamSetup) -> None:
    async def seen() -> dict[str, Any]:  # Any: a message is JSON
        replies = await setup.web.conversations_replies(
            channel=setup.general.id, ts=setup.question.ts, include_all_metadata=True
        )
        found: dict[str, Any] = replies["messages"][-1]
        return found

    ts = await setup.begin(metadata={"event_type": "too_early", "event_payload": {"reply_id": "1"}})
    assert (await seen())["streaming_state"] == "in_progress"
    assert "metadata" not in await seen()
    metadata = Metadata("inhouse_reply", {"reply_id": "1"})
    await setup.web.chat_stopStream(channel=setup.general.id, ts=ts, metadata=metadata)
    assert (await seen())["streaming_state"] == "completed"
    assert (await seen())["metadata"] == {"event_type": "inhouse_reply", "event_payload": {"reply_id": "1"}}


async def test_who_is_done_cannot_go_on(setup: StreamSetup) -> None:
    ts = await setup.begin()
    await setup.web.chat_stopStream(channel=setup.general.id, ts=ts, markdown_text="two")
    with pytest.raises(SlackApiError, match="message_not_in_streaming_state"):
        await setup.append(ts, "three")
    with pytest.raises(SlackApiError, match="message_not_in_streaming_state"):
        await setup.web.chat_stopStream(channel=setup.general.id, ts=ts)
    assert setup.general.messages[0].text == "One two"


async def test_only_the_bots_own_streams_take_more(setup: StreamSetup) -> None:
    plain = await setup.web.chat_postMessage(channel=setup.general.id, text="no stream")
    for ts in (plain["ts"], setup.question.ts):
        with pytest.raises(SlackApiError, match="message_not_in_streaming_state"):
            await setup.append(ts, "more")
    with pytest.raises(SlackApiError, match="message_not_found"):
        await setup.append("1.000001", "more")


async def test_a_person_stops_a_stream_and_the_app_is_told_at_its_next_call(setup: StreamSetup) -> None:
    ts = await setup.begin()
    setup.server.stops_stream(setup.general.messages[0])
    with pytest.raises(SlackApiError, match="stopped_by_user"):
        await setup.append(ts, "two")
    with pytest.raises(SlackApiError, match="stopped_by_user"):
        await setup.web.chat_stopStream(channel=setup.general.id, ts=ts)
    await setup.web.chat_update(channel=setup.general.id, ts=ts, text="One (stopped)")
    assert setup.general.messages[0].text == "One (stopped)"


async def test_slack_closes_a_stream_after_five_minutes_however_busy_it_is(setup: StreamSetup) -> None:
    ts = await setup.begin("0 ")
    for minute in range(1, 5):
        setup.server.clock.advance(60)
        await setup.append(ts, f"{minute} ")
    setup.server.clock.advance(60)
    with pytest.raises(SlackApiError, match="message_not_in_streaming_state"):
        await setup.append(ts, "5")
    with pytest.raises(SlackApiError, match="message_not_in_streaming_state"):
        await setup.web.chat_stopStream(channel=setup.general.id, ts=ts)
    assert setup.general.messages[0].text == "0 1 2 3 4 "
    await setup.web.chat_update(channel=setup.general.id, ts=ts, text="0 1 2 3 4 5")
    assert setup.general.messages[0].shown == "0 1 2 3 4 5"


async def test_an_unescaped_mention_in_a_stream_is_counted_also_in_code_and_in_the_blocks_of_the_stop(
    setup: StreamSetup,
) -> None:
    ts = await setup.begin("`<!here>` ")
    assert setup.server.pings == ["<!here>"]
    await setup.append(ts, "&lt;!everyone&gt;")
    assert setup.server.pings == ["<!here>"]
    context = [{"type": "context", "elements": [{"type": "mrkdwn", "text": setup.ana.mention}]}]
    await setup.web.chat_stopStream(channel=setup.general.id, ts=ts, blocks=context)
    assert setup.server.pings == ["<!here>", setup.ana.mention]


async def test_a_workspace_without_streams_does_not_know_the_methods(setup: StreamSetup) -> None:
    setup.server.streams_enabled = False
    with pytest.raises(SlackApiError, match="unknown_method"):
        await setup.begin()
    assert not setup.general.messages


async def test_a_stream_ends_the_status_under_its_thread(setup: StreamSetup) -> None:
    await setup.web.assistant_threads_setStatus(
        channel_id=setup.general.id, thread_ts=setup.question.ts, status="is thinking"
    )
    assert setup.server.status_of(setup.general, setup.question.ts) == "is thinking"
    await setup.begin()
    assert setup.server.status_of(setup.general, setup.question.ts) == ""


async def test_starting_streams_has_a_limit_a_minute(setup: StreamSetup) -> None:
    for _ in range(20):
        await setup.begin()
    with pytest.raises(SlackApiError) as error:
        await setup.begin()
    assert error.value.response.status_code == 429
    assert setup.server.rate_limited == 1
