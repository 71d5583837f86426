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


class Scene:
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
async def scene() -> AsyncIterator[Scene]:
    """A question in a channel."""
    async with FakeSlack() as server:
        ana, general = server.user("ana"), server.channel("general")
        yield Scene(server, ana, general, await ana.says(general, "hello", mention=True))


async def test_the_helper_of_the_sdk_streams_from_start_to_stop(scene: Scene) -> None:
    stream = await scene.web.chat_stream(
        channel=scene.general.id,
        thread_ts=scene.question.ts,
        recipient_user_id=scene.ana.id,
        recipient_team_id=TEAM,
        buffer_size=4,
    )
    await stream.append(markdown_text="One, two, ")
    await stream.append(markdown_text="&lt;three&gt;")
    await stream.stop(blocks=BUTTONS)
    answer = scene.general.messages[0]
    assert answer.shown == "One, two, <three>"
    assert answer.thread_ts == scene.question.ts
    assert answer.labels == ["Again"]
    assert not answer.streaming
    assert not scene.server.pings


async def test_chunks_of_text_and_blocks_stand_in_their_order(scene: Scene) -> None:
    chunks: list[dict[str, Any] | Chunk] = [  # Any: a chunk is JSON
        MarkdownTextChunk(text="One"),
        BlocksChunk(blocks=[DividerBlock()]),
        MarkdownTextChunk(text="two"),
    ]
    await scene.begin(None, chunks=chunks)
    assert [block["type"] for block in scene.general.messages[0].blocks] == ["markdown", "divider", "markdown"]


async def test_a_workspace_may_take_text_only(scene: Scene) -> None:
    scene.server.block_chunks = False
    with pytest.raises(SlackApiError, match="invalid_chunks"):
        await scene.begin(None, chunks=[BlocksChunk(blocks=[DividerBlock()])])
    assert not scene.general.messages


async def test_a_channel_wants_to_know_for_whom_and_a_direct_message_does_not(scene: Scene) -> None:
    with pytest.raises(SlackApiError, match="missing_recipient_team_id"):
        await scene.web.chat_startStream(
            channel=scene.general.id, thread_ts=scene.question.ts, recipient_user_id=scene.ana.id
        )
    dm = scene.server.dm(scene.ana)
    asked = await scene.ana.says(dm, "hello")
    await scene.web.chat_startStream(channel=dm.id, thread_ts=asked.ts, markdown_text="hi")
    assert dm.messages[0].text == "hi"


async def test_a_stream_needs_a_thread_that_is_there(scene: Scene) -> None:
    arguments = {"channel": scene.general.id, "recipient_user_id": scene.ana.id, "recipient_team_id": TEAM}
    with pytest.raises(SlackApiError, match="invalid_arguments"):
        await scene.web.api_call("chat.startStream", json=arguments)
    with pytest.raises(SlackApiError, match="thread_not_found"):
        await scene.web.api_call("chat.startStream", json=arguments | {"thread_ts": "1.000001"})


@pytest.mark.parametrize("blocks", [False, True])
async def test_a_piece_of_12_001_characters_is_too_long_and_is_not_taken(scene: Scene, blocks: bool) -> None:
    ts = await scene.begin("kept")
    if blocks:
        long = [MarkdownTextChunk(text="x" * 12_001)]
        call = scene.web.chat_appendStream(channel=scene.general.id, ts=ts, chunks=long)
    else:
        call = scene.web.chat_appendStream(channel=scene.general.id, ts=ts, markdown_text="x" * 12_001)
    with pytest.raises(SlackApiError, match="msg_too_long"):
        await call
    assert scene.general.messages[0].text == "kept"


async def test_history_has_the_metadata_only_once_the_stream_is_stopped(scene: Scene) -> None:
    async def seen() -> dict[str, Any]:  # Any: a message is JSON
        replies = await scene.web.conversations_replies(
            channel=scene.general.id, ts=scene.question.ts, include_all_metadata=True
        )
        found: dict[str, Any] = replies["messages"][-1]
        return found

    ts = await scene.begin(metadata={"event_type": "too_early", "event_payload": {"reply_id": "1"}})
    assert (await seen())["streaming_state"] == "in_progress"
    assert "metadata" not in await seen()
    metadata = Metadata("inhouse_reply", {"reply_id": "1"})
    await scene.web.chat_stopStream(channel=scene.general.id, ts=ts, metadata=metadata)
    assert (await seen())["streaming_state"] == "completed"
    assert (await seen())["metadata"] == {"event_type": "inhouse_reply", "event_payload": {"reply_id": "1"}}


async def test_who_is_done_cannot_go_on(scene: Scene) -> None:
    ts = await scene.begin()
    await scene.web.chat_stopStream(channel=scene.general.id, ts=ts, markdown_text="two")
    with pytest.raises(SlackApiError, match="message_not_in_streaming_state"):
        await scene.append(ts, "three")
    with pytest.raises(SlackApiError, match="message_not_in_streaming_state"):
        await scene.web.chat_stopStream(channel=scene.general.id, ts=ts)
    assert scene.general.messages[0].text == "One two"


async def test_only_the_bots_own_streams_take_more(scene: Scene) -> None:
    plain = await scene.web.chat_postMessage(channel=scene.general.id, text="no stream")
    for ts in (plain["ts"], scene.question.ts):
        with pytest.raises(SlackApiError, match="message_not_in_streaming_state"):
            await scene.append(ts, "more")
    with pytest.raises(SlackApiError, match="message_not_found"):
        await scene.append("1.000001", "more")


async def test_a_person_stops_a_stream_and_the_app_is_told_at_its_next_call(scene: Scene) -> None:
    ts = await scene.begin()
    scene.server.stops_stream(scene.general.messages[0])
    with pytest.raises(SlackApiError, match="stopped_by_user"):
        await scene.append(ts, "two")
    with pytest.raises(SlackApiError, match="stopped_by_user"):
        await scene.web.chat_stopStream(channel=scene.general.id, ts=ts)
    await scene.web.chat_update(channel=scene.general.id, ts=ts, text="One (stopped)")
    assert scene.general.messages[0].text == "One (stopped)"


async def test_slack_closes_a_stream_after_five_minutes_however_busy_it_is(scene: Scene) -> None:
    ts = await scene.begin("0 ")
    for minute in range(1, 5):
        scene.server.clock.advance(60)
        await scene.append(ts, f"{minute} ")
    scene.server.clock.advance(60)
    with pytest.raises(SlackApiError, match="message_not_in_streaming_state"):
        await scene.append(ts, "5")
    with pytest.raises(SlackApiError, match="message_not_in_streaming_state"):
        await scene.web.chat_stopStream(channel=scene.general.id, ts=ts)
    assert scene.general.messages[0].text == "0 1 2 3 4 "
    await scene.web.chat_update(channel=scene.general.id, ts=ts, text="0 1 2 3 4 5")
    assert scene.general.messages[0].shown == "0 1 2 3 4 5"


async def test_an_unescaped_mention_in_a_stream_is_counted_also_in_code_and_in_the_blocks_of_the_stop(
    scene: Scene,
) -> None:
    ts = await scene.begin("`<!here>` ")
    assert scene.server.pings == ["<!here>"]
    await scene.append(ts, "&lt;!everyone&gt;")
    assert scene.server.pings == ["<!here>"]
    context = [{"type": "context", "elements": [{"type": "mrkdwn", "text": scene.ana.mention}]}]
    await scene.web.chat_stopStream(channel=scene.general.id, ts=ts, blocks=context)
    assert scene.server.pings == ["<!here>", scene.ana.mention]


async def test_a_workspace_without_streams_does_not_know_the_methods(scene: Scene) -> None:
    scene.server.streams_enabled = False
    with pytest.raises(SlackApiError, match="unknown_method"):
        await scene.begin()
    assert not scene.general.messages


async def test_a_stream_ends_the_status_under_its_thread(scene: Scene) -> None:
    await scene.web.assistant_threads_setStatus(
        channel_id=scene.general.id, thread_ts=scene.question.ts, status="is thinking"
    )
    assert scene.server.status_of(scene.general, scene.question.ts) == "is thinking"
    await scene.begin()
    assert scene.server.status_of(scene.general, scene.question.ts) == ""


async def test_starting_streams_has_a_limit_a_minute(scene: Scene) -> None:
    for _ in range(20):
        await scene.begin()
    with pytest.raises(SlackApiError) as error:
        await scene.begin()
    assert error.value.response.status_code == 429
    assert scene.server.rate_limited == 1
