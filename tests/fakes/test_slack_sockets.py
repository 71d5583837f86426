"""Tests the fake's Socket Mode with the real slack-bolt: events, acks, redeliveries, and ends of sockets."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from slack_bolt.adapter.socket_mode.async_handler import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from tests.support.fakes.slack_server import FakeSlack

Event = dict[str, Any]  # Any: an event is JSON


class Bot:
    """A bolt app that records its events; the first `failures` events raise."""

    def __init__(self, server: FakeSlack) -> None:
        self.server = server
        self.web = AsyncWebClient(token=server.bot_token, base_url=server.api_url, retry_handlers=[])
        self.app = AsyncApp(client=self.web, process_before_response=True, ignoring_self_events_enabled=False)
        self.heard: list[Event] = []
        self.failures = 0
        for kind in ("message", "app_mention", "assistant_thread_started", "reaction_added"):
            self.app.event(kind)(self._hear)

    async def _hear(self, event: Event, body: Event) -> None:
        self.heard.append(event | {"event_id": body["event_id"]})
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a listener failed")

    def kinds(self) -> list[str]:
        """Types of the received events, with the subtype after a dot."""
        return [".".join(filter(None, (each["type"], each.get("subtype")))) for each in self.heard]

    async def hears(self, number: int) -> None:
        """Waits until `number` events were received."""
        await self.server.until(lambda: len(self.heard) >= number)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeSlack]:
    """A workspace."""
    async with FakeSlack() as opened:
        yield opened


@asynccontextmanager
async def connected(server: FakeSlack, ping_interval: float = 5.0) -> AsyncIterator[Bot]:
    """A connected bot."""
    bot = Bot(server)
    handler = AsyncSocketModeHandler(bot.app, server.app_token, web_client=bot.web, ping_interval=ping_interval)
    try:
        await handler.connect_async()  # type: ignore[no-untyped-call]  # bolt is typed in part
        await server.until(lambda: server.sockets.online)
        yield bot
    finally:
        await handler.close_async()  # type: ignore[no-untyped-call]  # as above


async def address(server: FakeSlack) -> str:
    """A websocket URL with a new ticket."""
    web = AsyncWebClient(base_url=server.api_url, retry_handlers=[])
    return str((await web.apps_connections_open(app_token=server.app_token))["url"])


async def test_a_mention_comes_as_two_events_of_one_message_and_both_are_acknowledged(server: FakeSlack) -> None:
    ana, general = server.user("ana"), server.channel("general")
    async with connected(server) as bot:
        question = await ana.says(general, "hello", mention=True)
        await server.until(lambda: len(server.acks) == 2)
        assert sorted(bot.kinds()) == ["app_mention", "message"]
        assert {event["ts"] for event in bot.heard} == {question.ts}
        assert len({event["event_id"] for event in bot.heard}) == 2
        assert all(ack.seconds < 3 and ack.payload is None and not ack.late for ack in server.acks)


async def test_direct_messages_have_no_mention_event(server: FakeSlack) -> None:
    ana = server.user("ana")
    async with connected(server) as bot:
        await ana.says(server.dm(ana), "hello", mention=True)
        await server.until(lambda: server.acks)
        assert bot.kinds() == ["message"]
        assert bot.heard[0]["channel_type"] == "im"


async def test_an_event_whose_listener_failed_comes_again_with_the_same_id(server: FakeSlack) -> None:
    server.sockets.scale = 0.1
    ana, general = server.user("ana"), server.channel("general")
    async with connected(server) as bot:
        bot.failures = 1
        await ana.says(general, "hello")
        await server.until(lambda: server.acks)
        assert len(bot.heard) == 2
        assert bot.heard[0]["event_id"] == bot.heard[1]["event_id"]
        assert [delivery.attempt for delivery in server.deliveries] == [0, 1]
        assert server.acks[0].attempt == 1


async def test_the_third_and_fourth_delivery_wait_one_minute_and_five(server: FakeSlack) -> None:
    ana, general = server.user("ana"), server.channel("general")
    server.sockets.scale = 0.01
    async with aiohttp.ClientSession() as session, session.ws_connect(await address(server)) as socket:
        await socket.receive_json()
        await ana.says(general, "hello")
        frames = [await socket.receive_json() for _ in range(4)]
        assert [frame["retry_attempt"] for frame in frames] == [0, 1, 2, 3]
        assert [frame["retry_reason"] for frame in frames] == ["", "timeout", "timeout", "timeout"]
        assert len({frame["payload"]["event_id"] for frame in frames}) == 1
        assert len({frame["envelope_id"] for frame in frames}) == 4
        _, second, third, fourth = (delivery.at for delivery in server.deliveries)
        assert (third - second >= 0.6, fourth - third >= 3.0) == (True, True)


async def test_a_redelivery_goes_to_another_socket(server: FakeSlack) -> None:
    server.sockets.scale = 0.02
    ana, general = server.user("ana"), server.channel("general")
    async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(session.ws_connect(await address(server))) for _ in range(2)]
        for number, socket in enumerate(sockets, start=1):
            assert (await socket.receive_json())["num_connections"] == number
        await ana.says(general, "hello")
        frames = [await socket.receive_json() for socket in sockets]
        assert frames[0]["payload"]["event_id"] == frames[1]["payload"]["event_id"]
        assert {frame["retry_attempt"] for frame in frames} == {0, 1}


async def test_a_late_ack_is_none(server: FakeSlack) -> None:
    server.sockets.scale = 0.02
    ana, general = server.user("ana"), server.channel("general")
    async with aiohttp.ClientSession() as session, session.ws_connect(await address(server)) as socket:
        await socket.receive_json()
        await ana.says(general, "hello")
        first = await socket.receive_json()
        await socket.receive_json()
        await socket.send_json({"envelope_id": first["envelope_id"]})
        await server.until(lambda: server.acks)
        assert (server.acks[0].late, server.acks[0].seconds > 0.06) == (True, True)


async def test_an_app_hears_only_what_it_asked_for_and_may_hear(server: FakeSlack) -> None:
    ana, general = server.user("ana"), server.channel("general")
    server.subscribe_only("app_mention", "message.im")
    server.scopes.discard("im:history")
    async with connected(server) as bot:
        await ana.says(server.dm(ana), "unheard for want of a scope")
        await ana.says(general, "unheard for want of a subscription")
        await ana.says(general, "heard", mention=True)
        await server.until(lambda: server.acks)
        assert bot.kinds() == ["app_mention"]
        assert len(server.deliveries) == 1


async def test_an_edited_mention_is_a_change_and_a_mention_once_more(server: FakeSlack) -> None:
    ana, general = server.user("ana"), server.channel("general")
    async with connected(server) as bot:
        question = await ana.says(general, "hello", mention=True)
        await bot.hears(2)
        bot.heard.clear()
        await ana.edits(question, f"{server.bot.mention} good morning")
        await bot.hears(2)
        assert sorted(bot.kinds()) == ["app_mention", "message.message_changed"]
        changed = next(event for event in bot.heard if event["type"] == "message")
        assert changed["message"]["ts"] == question.ts != changed["ts"]
        assert changed["previous_message"]["text"].endswith("hello")
        assert next(event for event in bot.heard if event["type"] == "app_mention")["edited"]["user"] == ana.id


async def test_a_deleted_question_with_an_answer_is_a_change_to_a_tombstone(server: FakeSlack) -> None:
    ana, general = server.user("ana"), server.channel("general")
    async with connected(server) as bot:
        alone, asked = await ana.says(general, "alone"), await ana.says(general, "asked")
        await bot.web.chat_postMessage(channel=general.id, thread_ts=asked.ts, text="answered")
        await bot.hears(3)
        bot.heard.clear()
        await ana.deletes(alone)
        await ana.deletes(asked)
        await bot.hears(2)
        gone = {each["subtype"]: each for each in bot.heard}
        assert gone["message_deleted"]["deleted_ts"] == alone.ts
        assert gone["message_changed"]["message"]["subtype"] == "tombstone"
        assert gone["message_changed"]["previous_message"]["user"] == ana.id


async def test_the_bots_own_update_comes_back_to_it(server: FakeSlack) -> None:
    general = server.channel("general")
    async with connected(server) as bot:
        sent = await bot.web.chat_postMessage(channel=general.id, text="one")
        await bot.web.chat_update(channel=general.id, ts=sent["ts"], text="two")
        await bot.hears(2)
        assert bot.kinds() == ["message", "message.message_changed"]
        assert bot.heard[1]["message"]["bot_id"] == server.bot.bot_id


async def test_commands_and_buttons_are_acknowledged_with_or_without_words(server: FakeSlack) -> None:
    ana, general = server.user("ana"), server.channel("general")
    button = {"type": "button", "text": {"type": "plain_text", "text": "Stop"}, "action_id": "stop", "value": "7"}
    buttons = [{"type": "actions", "elements": [button]}]
    async with connected(server) as bot:
        pressed: list[Event] = []

        async def command(ack: Any) -> None:  # Any: bolt's ack
            await ack("at once")

        async def stop(ack: Any, body: Event, respond: Any) -> None:  # Any: bolt's ack and respond
            pressed.append(body)
            await ack()
            await respond(text="stopped", replace_original=True)

        bot.app.command("/inhouse")(command)
        bot.app.action("stop")(stop)
        asked = await ana.commands(general, "help")
        await server.until(lambda: asked.acked)
        assert server.acks[-1].payload == {"text": "at once"}
        await bot.web.chat_postMessage(channel=general.id, text="writing", blocks=buttons)
        click = await ana.presses(general.messages[0], "Stop")
        await server.until(lambda: click.acked and general.messages[0].text == "stopped")
        assert pressed[0]["actions"][0]["value"] == "7"
        assert pressed[0]["message"]["ts"] == general.messages[0].ts
        assert general.messages[0].labels == []
        with pytest.raises(AssertionError, match="no button 'Stop'"):
            await ana.presses(general.messages[0], "Stop")


async def test_a_command_without_acknowledgement_does_not_come_again(server: FakeSlack) -> None:
    server.sockets.scale = 0.01
    ana, general = server.user("ana"), server.channel("general")
    async with aiohttp.ClientSession() as session, session.ws_connect(await address(server)) as socket:
        await socket.receive_json()
        asked = await ana.commands(general, "help")
        await socket.receive_json()
        await ana.says(general, "hello")
        assert [(await socket.receive_json())["type"] for _ in range(2)] == ["events_api"] * 2
        assert not asked.acked


async def test_a_client_that_is_asked_to_refresh_comes_back_and_hears_on(server: FakeSlack) -> None:
    ana, general = server.user("ana"), server.channel("general")
    async with connected(server, ping_interval=0.2) as bot:
        await server.sockets.disconnect("refresh_requested", closes_after=0.5)
        await server.until(lambda: server.sockets.opened == 2 and server.sockets.online)
        await ana.says(general, "still there?")
        await bot.hears(1)
        assert {delivery.socket for delivery in server.deliveries} == {2}


async def test_a_cut_line_is_noticed(server: FakeSlack) -> None:
    async with connected(server, ping_interval=0.2):
        server.sockets.kill()
        await server.until(lambda: server.sockets.opened == 2 and server.sockets.online)


async def test_a_half_open_socket_loses_what_is_sent_and_answers_no_ping(server: FakeSlack) -> None:
    server.sockets.scale = 0.02
    ana, general = server.user("ana"), server.channel("general")
    async with aiohttp.ClientSession() as session, session.ws_connect(await address(server), autoping=False) as socket:
        await socket.receive_json()
        await socket.ping(b"one")
        assert (await socket.receive()).type is aiohttp.WSMsgType.PONG
        server.freeze()
        await socket.ping(b"two")
        await ana.says(general, "hello")
        await server.until(lambda: len(server.deliveries) == 2)
        server.freeze(False)
        await socket.ping(b"three")
        frame = await socket.receive()
        while frame.type is aiohttp.WSMsgType.TEXT:
            assert frame.json()["retry_attempt"] == 2, "the first two deliveries are lost"
            frame = await socket.receive()
        assert (frame.type, frame.data) == (aiohttp.WSMsgType.PONG, b"three")


async def test_socket_mode_can_be_switched_off(server: FakeSlack) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(await address(server)) as socket:
        await socket.receive_json()
        await server.sockets.disconnect("link_disabled", closes_after=0)
        told = await socket.receive_json()
        assert (told["type"], told["reason"]) == ("disconnect", "link_disabled")
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
    with pytest.raises(SlackApiError, match="socket_mode_not_enabled"):
        await address(server)


async def test_the_eleventh_socket_and_an_old_ticket_are_turned_away(server: FakeSlack) -> None:
    async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
        old = await address(server)
        server.clock.advance(31)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(old)
        for _ in range(10):
            socket = await stack.enter_async_context(session.ws_connect(await address(server)))
            await socket.receive_json()
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(await address(server))
