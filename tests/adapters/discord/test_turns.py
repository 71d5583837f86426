"""Tests two hosts with one bot on Discord: who holds the gateway, and what the other one can do without it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest

from adapters.discord.adapter import DiscordAdapter
from adapters.discord.gateway.gateway import GatewayTiming
from bot.platforms.turns import Always, Never, Turns
from bot.types.errors import FatalAdapterError
from bot.types.messages import Attachment, Reply
from tests.support.builders.discord_adapter import QUICK, key_of, reply_to, run_discord_adapter, settings_of
from tests.support.fakes.discord import Can, Channel, FakeDiscord, Guild, Message
from tests.support.fakes.recording_core import RecordingCore
from tests.support.fakes.scripted_turns import ScriptedTurns

GATEWAY = "discord"
FIRST, SECOND = "discord shard 0/2", "discord shard 1/2"


@dataclass(frozen=True, slots=True)
class Host:
    """A host whose adapter has logged in."""

    adapter: DiscordAdapter
    core: RecordingCore
    running: "asyncio.Task[None]"


@asynccontextmanager
async def run_host(
    server: FakeDiscord,
    turns: Turns,
    timing: GatewayTiming = QUICK,
    connect: Callable[[], aiohttp.TCPConnector] | None = None,
) -> AsyncIterator[Host]:
    """Runs an adapter with these turns."""
    core = RecordingCore()
    adapter = DiscordAdapter(settings_of(server), connect or server.connector, timing)
    asked = server.log.count("GET", "/gateway/bot")
    running = asyncio.create_task(adapter.run(core, turns))
    try:
        await server.until(lambda: running.done() or server.log.count("GET", "/gateway/bot") > asked)
        yield Host(adapter, core, running)
    finally:
        await adapter.close()
        async with asyncio.timeout(20):
            await asyncio.gather(running, return_exceptions=True)


def answer_to(question: Message) -> Reply:
    """A reply with ids of its own."""
    return reply_to(question, reply_id=question.id.zfill(20), request_id=question.id.zfill(32))


async def shows_an_answer(host: Host, question: Message) -> None:
    """Posts, finds and edits a reply."""
    await host.adapter.status(key_of(question.channel), "")
    reply = answer_to(question)
    found_before = await host.adapter.find_posted(reply)
    posted = await host.adapter.post(replace(reply, tail="Hel"))
    assert (found_before, await host.adapter.find_posted(reply)) == (None, posted)
    await host.adapter.update(replace(reply, platform_id=posted, committed="Hello", final=True))
    assert question.channel.messages[-1].content == "Hello"


async def test_one_host_holds_the_gateway_and_the_other_one_posts_edits_and_finds() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with run_host(server, ScriptedTurns(GATEWAY)) as first, run_host(server, ScriptedTurns()) as second:
            await server.until(lambda: first.core.caught_up and first.adapter.connected)
            question = await ana.says(general, "hello", mention=True)
            await first.core.message()
            await shows_an_answer(second, question)
            once_more = replace(answer_to(question), tail="Hel")
            assert await first.adapter.post(once_more) == general.messages[-1].id, "the nonce makes it one message"
            assert len(general.messages) == 1
            assert second.adapter.connected
            assert not second.core.events
            assert len(server.gateway.identifies) == 1
            before = str(int(question.id) - 1)
            assert len(await first.adapter.fetch_since(key_of(general), before, 5)) == 1
            assert await second.adapter.fetch_since(key_of(general), before, 5) == []


async def test_the_gateway_is_handed_over_and_back_and_each_session_reads_back() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        ours, theirs = ScriptedTurns(GATEWAY), ScriptedTurns()
        async with run_host(server, ours) as first, run_host(server, theirs) as second:
            await server.until(lambda: first.core.caught_up and first.adapter.connected)
            for number, (giver, taker, to) in enumerate(((ours, theirs, second), (theirs, ours, first)), 1):
                giver.take(GATEWAY)
                await server.until(lambda: not server.gateway.online)
                missed = await ana.says(general, "missed", mention=True)
                caught_up, heard = to.core.caught_up, len(to.core.events)
                taker.give(GATEWAY)
                await server.until(lambda: to.core.caught_up > caught_up and to.adapter.connected)  # noqa: B023 -- awaited in the same round
                before = str(int(missed.id) - 1)
                assert [event.text for event in await to.adapter.fetch_since(key_of(general), before, 5)] == ["missed"]
                await ana.says(general, f"said {number}", mention=True)
                await server.until(lambda: len(to.core.events) > heard)  # noqa: B023 -- awaited in the same round
                assert len(server.gateway.online) == 1
                await shows_an_answer(first, await ana.says(general, "and now?"))
            assert len(server.gateway.identifies) == 3


async def test_while_two_hosts_hold_the_gateway_both_get_everything() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with (
            run_host(server, ScriptedTurns(GATEWAY)) as first,
            run_host(server, ScriptedTurns(GATEWAY)) as second,
        ):
            await server.until(lambda: first.adapter.connected and second.adapter.connected)
            await server.until(lambda: first.core.caught_up and second.core.caught_up)
            said = await ana.says(general, "hello", mention=True)
            heard = [await host.core.message() for host in (first, second)]
            assert [event.message_id for event in heard] == [said.id] * 2


async def test_identifies_of_all_hosts_are_apart() -> None:
    gap = 1.0
    async with FakeDiscord() as server:
        pauses, timing = Always(), GatewayTiming(guilds=0.05, gap=gap)
        hosts = [run_host(server, ScriptedTurns(GATEWAY, pauses=pauses), timing) for _ in range(3)]
        async with hosts[0], hosts[1], hosts[2]:
            await server.until(lambda: len(server.gateway.identifies) == 3)
        first, second, third = server.gateway.identifies
        assert min(second - first, third - second) > gap * 0.8


class Cable:
    """The way of one host to Discord."""

    def __init__(self, server: FakeDiscord) -> None:
        self._server = server
        self.is_cut = False

    def connector(self) -> aiohttp.TCPConnector:
        """A connector that connects unless the cable is cut."""
        connector = self._server.connector()
        connect = connector.connect

        async def connect_or_fail(*words: Any, **options: Any) -> Any:  # Any: aiohttp's own
            if self.is_cut:
                raise aiohttp.ClientConnectionError("the cable is cut")
            return await connect(*words, **options)

        connector.connect = connect_or_fail  # type: ignore[method-assign]
        return connector

    def cut(self) -> None:
        """Ends the host's sessions; new connections fail."""
        self.is_cut = True
        self._server.gateway.abort()


@pytest.mark.fault(69)
@pytest.mark.parametrize("hosts", [1, 2])
async def test_a_host_that_cannot_reach_discord_leaves_the_gateway_to_another_one(hosts: int) -> None:
    async with FakeDiscord() as server:
        cable, turns = Cable(server), ScriptedTurns(GATEWAY)
        turns.hosts = hosts
        adapter = DiscordAdapter(settings_of(server), cable.connector, replace(QUICK, unreachable=0.5, away=0.5))
        running = asyncio.create_task(adapter.run(RecordingCore(), turns))
        await server.until(lambda: adapter.connected)
        await asyncio.sleep(1.5)
        assert not turns.waiting, "a host that is connected keeps the gateway"
        cable.cut()
        await asyncio.sleep(3.0)
        assert not turns.waiting, "it would take the turn from a host that is connected"
        cable.is_cut = False
        await asyncio.sleep(2.0)
        assert turns.waiting == ({GATEWAY} if hosts > 1 else set())
        turns.give(GATEWAY)
        await server.until(lambda: adapter.connected and bool(server.gateway.online), timeout=20)
        await adapter.close()
        await running


@pytest.mark.fault(69)
async def test_the_next_host_reads_back_what_was_said_while_the_first_one_could_not_reach_discord() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        cable, ours, theirs = Cable(server), ScriptedTurns(GATEWAY), ScriptedTurns()
        ours.hosts = theirs.hosts = 2
        timing = replace(QUICK, unreachable=0.5, away=600.0)
        async with run_host(server, ours, timing, cable.connector) as first, run_host(server, theirs) as second:
            await server.until(lambda: first.core.caught_up and first.adapter.connected)
            cable.cut()
            missed = await ana.says(general, "missed", mention=True)
            await server.until(lambda: GATEWAY not in ours.held, timeout=30)
            theirs.give(GATEWAY)
            await server.until(lambda: second.core.caught_up and second.adapter.connected, timeout=30)
            before = str(int(missed.id) - 1)
            assert [event.text for event in await second.adapter.fetch_since(key_of(general), before, 5)] == ["missed"]
            assert not first.core.events
            assert not first.running.done()


async def test_a_host_that_waits_for_its_pause_keeps_the_gateway() -> None:
    async with FakeDiscord() as server:
        pauses = Always()
        await pauses.pause("discord connect 0", 2.0)
        turns = ScriptedTurns(GATEWAY, pauses=pauses)
        turns.hosts = 2
        async with run_host(server, turns, replace(QUICK, unreachable=0.5, away=60.0)) as host:
            await server.until(lambda: host.adapter.connected)


async def test_a_host_without_the_role_never_opens_the_gateway() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        async with run_host(server, Never()) as host:
            await shows_an_answer(host, await ana.says(general, "hello", mention=True))
            assert host.adapter.connected
        assert not server.frames


@pytest.mark.parametrize("denied", [Can.NOTHING, Can.ATTACH_FILES, Can.READ_MESSAGE_HISTORY])
async def test_a_host_without_the_gateway_shows_what_it_may(denied: Can) -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        question = await ana.says(general, "hello", mention=True)
        async with run_host(server, Never()) as host:
            general.deny(denied)
            reply = replace(answer_to(question), committed="Hello", attachment=Attachment("all.md", "all of it"))
            posted = await host.adapter.post(reply)
            (message,) = general.messages
            assert [file.name for file in message.attachments] == [] if denied is Can.ATTACH_FILES else ["all.md"]
            assert ("I may not attach files" in message.content) == (denied is Can.ATTACH_FILES)
            assert (message.reference is None) == (denied is Can.READ_MESSAGE_HISTORY)
            await host.adapter.update(replace(reply, platform_id=posted, committed="Hello you", final=True))
            assert message.content.startswith("Hello you")
            assert len(general.messages) == 1


@pytest.mark.fault(12)
async def test_a_refused_token_ends_a_host_with_the_gateway_and_one_without() -> None:
    async with FakeDiscord() as server:
        async with run_host(server, ScriptedTurns(GATEWAY)) as first, run_host(server, Never()) as second:
            await server.until(lambda: first.adapter.connected)
            server.gateway.close(4004)
            with pytest.raises(FatalAdapterError):
                await asyncio.wait_for(first.running, 10)
            assert not second.running.done()
        adapter = DiscordAdapter(settings_of(server, discord_bot_token="wrong"), server.connector, QUICK)
        with pytest.raises(FatalAdapterError):
            await asyncio.wait_for(adapter.run(RecordingCore(), Never()), 10)


def new_channels(server: FakeDiscord) -> list[Channel]:
    """A channel of each of two shards, in servers of their own."""
    guilds = {shard_of(server.guild): server.guild}
    while len(guilds) < 2:
        server.clock.advance(0.001)
        guild = server.new_guild("Elsewhere")
        guilds[shard_of(guild)] = guild
    server.gateway.session_start.shards = 2
    return [server.text_channel("general", guilds[index]) for index in (0, 1)]


def shard_of(guild: Guild) -> int:
    """The shard of a server, of two."""
    return (int(guild.id) >> 22) % 2


async def test_one_host_holds_all_shards_that_discord_recommends() -> None:
    async with FakeDiscord() as server:
        channels = new_channels(server)
        ana = server.user("ana")
        async with run_host(server, Always()) as host:
            await server.until(lambda: host.adapter.connected and host.core.caught_up == 2)
            assert sorted((one.shard, one.shards) for one in server.gateway.online) == [(0, 2), (1, 2)]
            said = [await ana.says(channel, "hello", mention=True) for channel in (*channels, server.dm(ana))]
            heard = [await host.core.message(number) for number in (1, 2, 3)]
            assert {event.message_id for event in heard} == {message.id for message in said}
            for message in said:
                before = str(int(message.id) - 1)
                (found,) = await host.adapter.fetch_since(key_of(message.channel), before, 5)
                assert found.message_id == message.id
                await shows_an_answer(host, message)
            await server.until(lambda: server.commands)
            assert sum(call.method == "PUT" and call.path.endswith("/commands") for call in server.calls) == 1


async def test_two_hosts_hold_a_shard_each_and_one_takes_the_other_s() -> None:
    async with FakeDiscord() as server:
        channels = new_channels(server)
        ana = server.user("ana")
        ours, theirs = ScriptedTurns(FIRST), ScriptedTurns(SECOND)
        async with run_host(server, ours) as first, run_host(server, theirs) as second:
            await server.until(lambda: first.core.caught_up and second.core.caught_up)
            await server.until(lambda: first.adapter.connected and second.adapter.connected)
            for host, channel, other in zip((first, second), channels, (second, first), strict=True):
                said = await ana.says(channel, "hello", mention=True)
                assert (await host.core.message()).message_id == said.id
                assert await other.adapter.fetch_since(key_of(channel), str(int(said.id) - 1), 5) == []
                await shows_an_answer(other, said)
            await second.adapter.close()
            await second.running
            ours.give(SECOND)
            await server.until(lambda: first.core.caught_up == 2 and len(server.gateway.online) == 2)
            await ana.says(channels[1], "and now?", mention=True)
            await first.core.message(2)


@pytest.mark.parametrize("code", [4010, 4011])
async def test_a_bot_that_grows_gets_more_shards_without_a_restart(code: int) -> None:
    async with run_discord_adapter() as setup:
        channels = new_channels(setup.server)
        setup.server.gateway.close(code)
        await setup.server.until(lambda: {one.shards for one in setup.server.gateway.online} == {2}, timeout=10)
        await setup.server.until(lambda: setup.adapter.connected)
        for number, channel in enumerate(channels, 1):
            await setup.ana.says(channel, "hello", mention=True)
            await setup.core.message(number)


async def test_shards_that_discord_counts_together_identify_apart() -> None:
    gap = 0.5
    async with FakeDiscord() as server:
        server.gateway.session_start.shards, server.gateway.session_start.at_once = 4, 2
        async with run_host(server, Always(), GatewayTiming(guilds=0.05, gap=gap)):
            await server.until(lambda: len(server.gateway.online) == 4)
        frames = server.log.received(op=2)
        shards = [(frame.data["shard"][0], frame.at) for frame in frames if isinstance(frame.data, dict)]
        for bucket in (0, 1):
            first, second = (at for shard, at in shards if shard % 2 == bucket)
            assert second - first > gap * 0.6


async def test_shards_leave_the_reserve_of_sessions_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeDiscord() as server:
        new_channels(server)
        server.gateway.session_start.leave(21, 3600)
        async with run_host(server, Always()):
            await server.until(lambda: "Only 21 more sessions" in caplog.text)
            assert not server.gateway.identifies


async def test_a_host_without_its_lease_leaves_interactions_to_another_one() -> None:
    async with FakeDiscord() as server:
        ana, general = server.user("ana"), server.text_channel("general")
        ana.patience = 0.5
        turns = ScriptedTurns(GATEWAY)
        async with run_host(server, turns) as host:
            await server.until(lambda: host.core.caught_up and host.adapter.connected and server.commands)
            turns.may_send, turns.hosts = False, 2
            assert (await ana.slash("model", channel=general)).failed
            assert not host.core.events
            turns.hosts = 1
            assert not (await ana.slash("model", channel=general)).failed
            await server.until(lambda: len(host.core.events) == 1)
