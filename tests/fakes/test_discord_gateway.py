"""Tests the fake Discord's gateway with the real discord.py: sessions that break, resume, and are refused."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import create_default_context
from typing import Any

import aiohttp
import discord
import pytest

from tests.support.fakes.connect_proxy import ConnectProxy
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.echo_bot import running

GATEWAY = "wss://gateway.discord.gg/?v=10&encoding=json&compress=zlib-stream"


async def test_op_7_is_resumed_and_nothing_said_meanwhile_is_lost_or_doubled() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:
            await ana.says(general, "before")
            await server.until(lambda: bot.seen)
            server.gateway.reconnect()
            await server.until(lambda: not server.gateway.online)
            await ana.says(general, "meanwhile")
            await server.until(lambda: bot.resumed and len(bot.seen) == 2)
            await ana.says(general, "after")
            await server.until(lambda: len(bot.seen) == 3)
            assert bot.texts() == ["before", "meanwhile", "after"]
            assert (len(server.gateway.identifies), len(server.gateway.resumes)) == (1, 1)


async def test_op_9_costs_the_session_and_what_was_said_meanwhile_stays_in_the_history_only() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:
            server.gateway.invalidate()
            await server.until(lambda: not server.gateway.online)
            await ana.says(general, "missed")
            await server.until(lambda: len(server.gateway.identifies) == 2 and server.gateway.online)
            await ana.says(general, "heard")
            await server.until(lambda: bot.seen)
            assert bot.texts() == ["heard"]
            assert [message.content for message in general.history] == ["missed", "heard"]


async def test_a_session_that_was_forgotten_cannot_be_resumed() -> None:
    async with FakeDiscord() as server, running(server):
        server.gateway.forget_sessions()
        server.gateway.abort()
        await server.until(lambda: len(server.gateway.identifies) == 2)
        assert len(server.gateway.resumes) == 1


async def test_a_cut_connection_is_resumed() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:
            server.gateway.abort()
            await ana.says(general, "meanwhile")
            await server.until(lambda: bot.resumed and bot.seen)
            assert server.gateway.resumes


async def test_frozen_frames_make_the_client_leave_and_resume_elsewhere() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        server.gateway.heartbeat_interval = 0.3
        async with running(server, heartbeat_timeout=0.8) as bot:
            server.gateway.freeze()
            await ana.says(general, "into the void")
            await server.until(lambda: bot.resumed and bot.seen, timeout=10)
            assert bot.texts() == ["into the void"]


async def test_dropped_acks_leave_the_heartbeats_unanswered() -> None:
    async with FakeDiscord() as server:
        server.gateway.heartbeat_interval = 0.1
        server.gateway.drop_acks = True
        async with running(server):
            await server.until(lambda: len(server.log.received(op=1)) >= 3)
            assert not [frame for frame in server.frames if frame.op == 11]


@pytest.mark.parametrize("code", [4004, 4014])
async def test_close_codes_that_end_it_all_are_seen_by_the_client(code: int) -> None:
    async with FakeDiscord() as server:
        server.gateway.refuse_identify(code)
        with pytest.raises((discord.ConnectionClosed, discord.PrivilegedIntentsRequired)):
            async with running(server):
                pass
        async with running(server) as bot:
            server.gateway.close(code)
            await server.until(bot.ended_with)
            assert isinstance(bot.ended_with(), discord.ConnectionClosed | discord.PrivilegedIntentsRequired)


async def test_sessions_left_are_reported_and_counted() -> None:
    async with FakeDiscord() as server:
        server.gateway.session_start.leave(20, reset_after=60)
        async with running(server) as bot:
            assert server.gateway.session_start.payload()["remaining"] == 19
            limit = await bot.http.request(discord.http.Route("GET", "/gateway/bot"))
            assert 0 < limit["session_start_limit"]["reset_after"] <= 60_000
            server.clock.advance(61)
            assert server.gateway.session_start.payload()["remaining"] == 1000


async def test_presence_is_seen_and_a_malformed_event_ends_an_unsupervised_client() -> None:
    async with FakeDiscord() as server, running(server) as bot:
        await bot.change_presence(activity=discord.CustomActivity("smollm2 · idle"))
        await server.until(lambda: server.presences)
        assert server.presences[-1]["activities"][0]["state"] == "smollm2 · idle"
        server.gateway.send(event="MESSAGE_CREATE", data={"id": "nonsense"})
        await server.until(bot.ended_with)
        assert isinstance(bot.ended_with(), KeyError)


async def test_a_message_can_be_delivered_twice() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with running(server) as bot:
            server.redeliver(await ana.says(general, "again"))
            await server.until(lambda: len(bot.seen) == 2)
            assert bot.seen[0].id == bot.seen[1].id


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([{"op": 3, "d": {}}], 4003),
        ([{"op": 2, "d": {"token": "wrong", "intents": 1}}], 4004),
        ([{"op": 2, "d": {"token": "", "intents": 1 << 30}}], 4013),
        ([{"op": 2, "d": {"token": "", "intents": 1 << 1}}], 4014),
        ([{"op": 2, "d": {"token": "", "intents": 1, "shard": [1, 1]}}], 4010),
        ([{"op": 2, "d": {"token": "", "intents": 1}}] * 2, 4005),
        ([{"op": 2, "d": {"token": "", "intents": 1}}, {"op": 99, "d": {}}], 4001),
        ([{"op": 1, "d": "x" * 5000}], 4002),
        ([{"op": 1, "d": None}] * 121, 4008),
    ],
)
async def test_frames_that_break_the_rules_are_answered_with_their_close_code(
    frames: list[dict[str, Any]], code: int
) -> None:
    async with FakeDiscord() as server, socket(server) as client:
        for frame in frames:
            if isinstance(frame["d"], dict) and frame["d"].get("token") == "":
                frame = frame | {"d": frame["d"] | {"token": server.token}}
            await client.send_json(frame)
        while not client.closed:
            await client.receive(timeout=5)
        assert client.close_code == code


async def test_a_client_that_sends_no_heartbeat_is_closed() -> None:
    async with FakeDiscord() as server:
        server.gateway.heartbeat_interval = 0.1
        async with socket(server) as client:
            hello = json.loads(zlib.decompressobj().decompress((await client.receive()).data))
            assert hello == {"op": 10, "d": {"heartbeat_interval": 100}, "t": None, "s": None}
            await client.receive(timeout=5)
            assert client.close_code == 4009


async def test_connections_can_be_refused() -> None:
    async with FakeDiscord() as server:
        server.gateway.refuse_connections(1)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with socket(server):
                pass
        async with socket(server):
            pass


async def test_another_process_gets_here_through_the_proxy(tmp_path: Path) -> None:
    async with FakeDiscord() as server, ConnectProxy(server.port) as proxy:
        trust = create_default_context(cafile=str(server.write_ca(tmp_path / "ca.pem")))
        connector = aiohttp.TCPConnector(ssl=trust)
        client = discord.Client(intents=discord.Intents.none(), proxy=proxy.url, connector=connector)
        async with client:
            task = asyncio.create_task(client.start(server.token))
            await server.until(lambda: server.gateway.online)
            assert set(proxy.hosts) == {"discord.com", "gateway.discord.gg"}
            proxy.cut()
            await server.until(lambda: server.gateway.resumes)
        await task


@asynccontextmanager
async def socket(server: FakeDiscord) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A bare websocket to the gateway."""
    async with (
        aiohttp.ClientSession(connector=server.connector()) as session,
        session.ws_connect(GATEWAY) as client,
    ):
        yield client
