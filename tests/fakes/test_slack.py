"""Tests the fake Slack's refusals with the real slack_sdk."""

import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from tests.support.fakes.slack_server import FakeSlack


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeSlack]:
    """A workspace."""
    async with FakeSlack() as opened:
        yield opened


def client(server: FakeSlack, token: str = "") -> AsyncWebClient:
    """A client with the bot's token, or another one."""
    return AsyncWebClient(token=token or server.bot_token, base_url=server.api_url, retry_handlers=[])


async def refused(call: object) -> str:
    """Slack's error code for a call."""
    with pytest.raises(SlackApiError) as error:
        await call  # type: ignore[misc]  # a call of the SDK
    return str(error.value.response["error"])


async def test_arguments_come_in_four_forms(server: FakeSlack) -> None:
    general = server.channel("general")
    url, head = f"{server.api_url}chat.postMessage", {"Authorization": f"Bearer {server.bot_token}"}
    said = {"channel": general.id, "text": "hello"}
    async with aiohttp.ClientSession(headers=head) as session:
        for how in ({"params": said}, {"data": said}, {"json": said}):
            answer = await session.post(url, **how)  # type: ignore[arg-type]  # one of three
            assert (await answer.json())["ok"]
        assert (await (await session.get(url, params=said)).json())["ok"]
        blocks = json.dumps([{"type": "divider"}])
        assert (await (await session.post(url, data=said | {"blocks": blocks})).json())["ok"]
    assert [call.form for call in server.calls] == ["post query", "form", "json", "get query", "form"]
    assert [message.text for message in general.messages] == ["hello"] * 5


async def test_tokens_of_the_wrong_kind_are_refused(server: FakeSlack) -> None:
    assert await refused(client(server, "xoxb-other").auth_test()) == "invalid_auth"
    assert await refused(client(server, server.app_token).users_info(user="U1")) == "not_allowed_token_type"
    opening = client(server).apps_connections_open(app_token=server.bot_token)
    assert await refused(opening) == "not_allowed_token_type"
    server.refuse_token("token_revoked")
    assert await refused(client(server).auth_test()) == "token_revoked"


async def test_scopes_are_needed(server: FakeSlack) -> None:
    general = server.channel("general")
    server.scopes.discard("chat:write")
    with pytest.raises(SlackApiError) as error:
        await client(server).chat_postMessage(channel=general.id, text="hello")
    assert error.value.response["needed"] == "chat:write"
    told = (await client(server).auth_test()).headers["x-oauth-scopes"]
    assert "app_mentions:read" in told
    assert "chat:write" not in told


@pytest.mark.filterwarnings("ignore:The top-level `text` argument is missing")
async def test_lengths_are_limited(server: FakeSlack) -> None:
    web, general = client(server), server.channel("general")
    server.limits.strict = False
    sent = await web.chat_postMessage(channel=general.id, text="x" * 50_000)
    assert len(general.messages[0].text) == 40_000
    ts = sent["ts"]
    assert await refused(web.chat_update(channel=general.id, ts=ts, text="x" * 4001)) == "msg_too_long"
    long = web.api_call("chat.postMessage", json={"channel": general.id, "markdown_text": "x" * 12_001})
    assert await refused(long) == "msg_too_long"
    both = web.chat_postMessage(channel=general.id, text="x", markdown_text="x")
    assert await refused(both) == "markdown_text_conflict"
    blocks = [{"type": "markdown", "text": "x" * 7000}] * 2
    assert await refused(web.chat_postMessage(channel=general.id, text="x", blocks=blocks)) == "msg_blocks_too_long"
    bad = [{"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3001}}]
    assert await refused(web.chat_postMessage(channel=general.id, text="x", blocks=bad)) == "invalid_blocks"
    assert await refused(web.chat_postMessage(channel=general.id, text=" ")) == "no_text"


async def test_messages_of_others_and_gone_ones_cannot_be_changed(server: FakeSlack) -> None:
    web, general, ana = client(server), server.channel("general"), server.user("ana")
    question = await ana.says(general, "hello")
    assert await refused(web.chat_update(channel=general.id, ts=question.ts, text="x")) == "cant_update_message"
    assert await refused(web.chat_update(channel=general.id, ts="1.000001", text="x")) == "message_not_found"
    assert await refused(web.chat_postMessage(channel="C0NOWHERE", text="x")) == "channel_not_found"
    away = server.channel("away", with_bot=False)
    assert await refused(web.chat_postMessage(channel=away.id, text="x")) == "not_in_channel"
    assert await refused(web.chat_postMessage(channel=general.id, thread_ts="1.000001", text="x")) == "thread_not_found"
    assert await refused(web.api_call("chat.everything")) == "unknown_method"


async def test_too_many_calls_are_refused_with_the_time_to_wait(server: FakeSlack) -> None:
    web, general = client(server), server.channel("general")
    for _ in range(5):
        await web.chat_postMessage(channel=general.id, text="x")
    with pytest.raises(SlackApiError) as error:
        await web.chat_postMessage(channel=general.id, text="x")
    assert error.value.response.status_code == 429
    assert int(error.value.response.headers["Retry-After"]) >= 1
    await web.chat_postMessage(channel=server.channel("other").id, text="x")


async def test_pings_and_unfurls_are_seen(server: FakeSlack) -> None:
    web, general, ana = client(server), server.channel("general"), server.user("ana")
    await web.chat_postMessage(channel=general.id, text=f"<!channel> {ana.mention} https://example.com/")
    assert server.pings == ["<!channel>", ana.mention]
    assert server.unfurls == ["https://example.com/"]
    before = len(server.unfurls)
    escaped = "&lt;!channel&gt; https://example.com/"
    await web.chat_postMessage(channel=general.id, text=escaped, unfurl_links=False, unfurl_media=False)
    assert len(server.pings) == 2
    assert len(server.unfurls) == before


async def test_streams_live_in_threads_for_five_minutes(server: FakeSlack) -> None:
    web, general, ana = client(server), server.channel("general"), server.user("ana")
    question = await ana.says(general, "hello")
    nobody = web.chat_startStream(channel=general.id, thread_ts=question.ts)
    assert await refused(nobody) == "missing_recipient_user_id"
    begun = await web.chat_startStream(
        channel=general.id,
        thread_ts=question.ts,
        recipient_user_id=ana.id,
        recipient_team_id="T1",
        markdown_text="One ",
    )
    ts = begun["ts"]
    assert await refused(web.chat_update(channel=general.id, ts=ts, text="x")) == "streaming_state_conflict"
    await web.chat_appendStream(channel=general.id, ts=ts, markdown_text="two")
    assert general.messages[0].text == "One two"
    server.clock.advance(300)
    late = web.chat_appendStream(channel=general.id, ts=ts, markdown_text="three")
    assert await refused(late) == "message_not_in_streaming_state"
    await web.chat_update(channel=general.id, ts=ts, text="One two three")
    assert general.messages[0].text == "One two three"


async def test_a_ticket_counts_once_and_an_unacknowledged_event_comes_again(server: FakeSlack) -> None:
    server.sockets.scale = 0.02
    ana, general = server.user("ana"), server.channel("general")
    url = (await client(server).apps_connections_open(app_token=server.app_token))["url"]
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(url)
        assert (await socket.receive_json())["type"] == "hello"
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url)
        await ana.says(general, "hello", mention=True)
        frames = [await socket.receive_json() for _ in range(4)]
        events = [(frame["payload"]["event"]["type"], frame["payload"]["event_id"]) for frame in frames]
        assert {kind for kind, _ in events} == {"app_mention", "message"}
        assert len(set(events)) == 2, "each of the two events came twice, under the same id"
        assert {frame["retry_attempt"] for frame in frames} == {0, 1}
        for frame in frames:
            await socket.send_json({"envelope_id": frame["envelope_id"]})
        await server.until(lambda: len(server.acks) == 4)
        await socket.close()


async def test_a_command_is_answered_five_times_at_most(server: FakeSlack) -> None:
    ana, general = server.user("ana"), server.channel("general")
    url = (await client(server).apps_connections_open(app_token=server.app_token))["url"]
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(url)
        await socket.receive_json()
        asked = await ana.commands(general, "help")
        payload = (await socket.receive_json())["payload"]
        assert (payload["command"], payload["text"]) == ("/inhouse", "help")
        statuses = [
            (await session.post(payload["response_url"], json={"text": f"answer {n}"})).status for n in range(6)
        ]
        assert statuses == [200] * 5 + [404]
        assert [message.ephemeral for message in asked.messages] == [True] * 5
        assert not asked.acked
        await socket.close()


async def test_history_is_newest_first_in_pages_and_without_replies(server: FakeSlack) -> None:
    web, general, ana = client(server), server.channel("general"), server.user("ana")
    said = [await ana.says(general, f"message {number}") for number in range(5)]
    await ana.says(general, "a reply", thread=said[0])
    first = await web.conversations_history(channel=general.id, limit=3)
    cursor = first["response_metadata"]["next_cursor"]
    second = await web.conversations_history(channel=general.id, limit=3, cursor=cursor)
    found = [message["ts"] for page in (first, second) for message in page["messages"]]
    assert found == [message.ts for message in reversed(said)]
    assert (first["has_more"], second["has_more"]) == (True, False)
    later = await web.conversations_history(channel=general.id, oldest=said[2].ts)
    assert [message["ts"] for message in later["messages"]] == [said[4].ts, said[3].ts]
    bound = await web.conversations_history(channel=general.id, oldest=said[2].ts, inclusive=True)
    assert len(bound["messages"]) == 3


async def test_replies_are_oldest_first_and_metadata_is_for_who_asks(server: FakeSlack) -> None:
    web, general, ana = client(server), server.channel("general"), server.user("ana")
    question = await ana.says(general, "hello")
    metadata = {"event_type": "inhouse_reply", "event_payload": {"reply_id": "1"}}
    answer = await web.chat_postMessage(channel=general.id, thread_ts=question.ts, text="hi", metadata=metadata)
    plain = await web.conversations_replies(channel=general.id, ts=question.ts)
    assert [message["ts"] for message in plain["messages"]] == [question.ts, answer["ts"]]
    assert "metadata" not in plain["messages"][1]
    full = await web.conversations_replies(channel=general.id, ts=question.ts, include_all_metadata=True)
    assert full["messages"][1]["metadata"] == metadata
    bad = web.chat_postMessage(channel=general.id, text="hi", metadata={"event_type": "no payload"})
    assert await refused(bad) == "invalid_metadata_format"


@pytest.mark.parametrize("applied", [True, False])
async def test_a_dropped_answer_may_be_of_a_post_that_was_made(server: FakeSlack, applied: bool) -> None:
    general = server.channel("general")
    fault = server.faults.drop("chat.postMessage", applied=applied)
    with pytest.raises(aiohttp.ClientError):
        await client(server).chat_postMessage(channel=general.id, text="hello")
    assert len(general.messages) == applied
    assert (fault.hits, server.calls[-1].status) == (1, 0)
    await client(server).chat_postMessage(channel=general.id, text="hello")
    assert len(general.messages) == applied + 1


async def test_scripted_faults_meet_the_calls_that_they_name(server: FakeSlack) -> None:
    web, general, other = client(server), server.channel("general"), server.channel("other")
    server.faults.answer("chat.postMessage", status=503, channel=general.id, times=2, skip=1)
    server.faults.refuse("chat.delete", "fatal_error")
    sent = await web.chat_postMessage(channel=general.id, text="1")
    for _ in range(2):
        await web.chat_postMessage(channel=other.id, text="not this one")
        with pytest.raises(SlackApiError) as error:
            await web.chat_postMessage(channel=general.id, text="2")
        assert error.value.response.status_code == 503
    await web.chat_postMessage(channel=general.id, text="3")
    assert await refused(web.chat_delete(channel=general.id, ts=sent["ts"])) == "fatal_error"
    assert [message.text for message in general.messages] == ["1", "3"]


async def test_a_method_is_exhausted_in_one_channel_until_its_time_is_over(server: FakeSlack) -> None:
    web, general, other = client(server), server.channel("general"), server.channel("other")
    server.limits.strict = False
    server.limits.exhaust("chat.postMessage", 30, general.id)
    with pytest.raises(SlackApiError) as error:
        await web.chat_postMessage(channel=general.id, text="x")
    assert 29 <= int(error.value.response.headers["Retry-After"]) <= 30
    await web.chat_postMessage(channel=other.id, text="x")
    server.clock.advance(30)
    await web.chat_postMessage(channel=general.id, text="x")
    assert server.rate_limited == 1


async def test_an_ephemeral_message_is_for_a_member_and_in_no_history(server: FakeSlack) -> None:
    web, general, ana = client(server), server.channel("general"), server.user("ana")
    await web.chat_postEphemeral(channel=general.id, user=ana.id, text="psst <!here>")
    assert [(message.text, message.to) for message in general.ephemerals] == [("psst <!here>", ana.user)]
    assert server.pings == ["<!here>"]
    assert not (await web.conversations_history(channel=general.id))["messages"]
    stranger = web.chat_postEphemeral(channel=general.id, user="U0STRANGER", text="psst")
    assert await refused(stranger) == "user_not_in_channel"


async def test_files_go_up_in_three_steps_and_down_with_the_scope(server: FakeSlack) -> None:
    web, general, ana = client(server), server.channel("general"), server.user("ana")
    await web.files_upload_v2(channel=general.id, filename="a.txt", content="up")
    assert general.messages[0].files == {"a.txt": b"up"}
    question = await ana.says(general, "look", files={"b.py": b"down"})
    told = (await web.conversations_history(channel=general.id, limit=1))["messages"][0]
    assert (told["ts"], told["subtype"]) == (question.ts, "file_share")
    head = {"Authorization": f"Bearer {server.bot_token}"}
    async with aiohttp.ClientSession() as session:
        url = told["files"][0]["url_private_download"]
        assert await (await session.get(url, headers=head)).read() == b"down"
        assert (await session.get(url)).content_type == "text/html"
        server.scopes.discard("files:read")
        assert (await session.get(url, headers=head)).content_type == "text/html"


async def test_a_status_ends_after_two_minutes_or_with_a_post(server: FakeSlack) -> None:
    web, general, ana = client(server), server.channel("general"), server.user("ana")
    question = await ana.says(general, "hello")

    async def thinks() -> str:
        await web.assistant_threads_setStatus(channel_id=general.id, thread_ts=question.ts, status="is thinking")
        return server.status_of(general, question.ts)

    assert await thinks() == "is thinking"
    server.clock.advance(120)
    assert server.status_of(general, question.ts) == ""
    assert await thinks() == "is thinking"
    await web.chat_postMessage(channel=general.id, thread_ts=question.ts, text="hi")
    assert server.status_of(general, question.ts) == ""
