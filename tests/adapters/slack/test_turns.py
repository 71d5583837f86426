"""Tests hosts that share one app on Slack: some listen on sockets, and each posts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from adapters.slack.adapter import SlackAdapter
from adapters.slack.outbound.rate_limits import RateLimits
from bot.platforms.turns import Always, Never, Turns
from bot.types.messages import IncomingMessage, Reply
from tests.support.builders.slack_adapter import QUICK, reply_to, settings_of
from tests.support.fakes.recording_core import RecordingCore
from tests.support.fakes.scripted_turns import ScriptedTurns
from tests.support.fakes.slack_server import FakeSlack, Message


@asynccontextmanager
async def run_host(server: FakeSlack, turns: Turns) -> AsyncIterator[tuple[SlackAdapter, RecordingCore]]:
    """Runs an adapter with these turns, until it has authenticated."""
    core = RecordingCore()
    server.limits.scale = 0.01
    adapter = SlackAdapter(settings_of(server), QUICK, RateLimits(scale=0.01))
    running = asyncio.create_task(adapter.run(core, turns))
    try:
        await server.until(lambda: running.done() or adapter.connected)
        yield adapter, core
    finally:
        await adapter.close()
        async with asyncio.timeout(10):
            await asyncio.gather(running, return_exceptions=True)


def answer_to(question: Message) -> Reply:
    """A reply with ids of its own."""
    digits = question.ts.replace(".", "")
    return reply_to(question, reply_id=digits.zfill(20), request_id=digits.zfill(32))


async def shows_an_answer(server: FakeSlack, adapter: SlackAdapter, question: Message) -> None:
    """Streams, finds and edits a reply."""
    await adapter.status(reply_to(question).key, "")
    reply = replace(answer_to(question), committed="Hel")
    assert await adapter.find_posted(reply) is None
    posted = await adapter.post(reply)
    assert await adapter.find_posted(reply) == posted
    await adapter.update(replace(reply, platform_id=posted, committed="Hello", final=True))
    assert question.channel.messages[-1].shown == "Hello"
    assert not question.channel.messages[-1].streaming


async def test_a_host_without_the_role_streams_edits_and_finds_and_never_opens_a_socket() -> None:
    async with FakeSlack() as server:
        ana, general = server.user("ana"), server.channel("general")
        async with run_host(server, Never()) as (adapter, core):
            await shows_an_answer(server, adapter, await ana.says(general, "hello", mention=True))
            assert adapter.connected
            assert not core.events
        assert server.log.count("chat.startStream") == 1
        assert server.log.count("apps.connections.open") == 0


async def test_of_several_hosts_each_listens_and_an_event_goes_to_one_of_them() -> None:
    async with FakeSlack() as server:
        ana, general = server.user("ana"), server.channel("general")
        hosts = [run_host(server, ScriptedTurns("slack")) for _ in range(2)]
        async with hosts[0] as (adapter, first), hosts[1] as (other, second):
            await server.until(lambda: len(server.sockets.sockets) == 2 and first.caught_up and second.caught_up)
            said = [await ana.says(general, f"question {number}", mention=True) for number in range(4)]

            def heard() -> list[list[str]]:
                events = [[e for e in core.events if isinstance(e, IncomingMessage)] for core in (first, second)]
                return [sorted({event.message_id for event in each}) for each in events]

            await server.until(lambda: sum(map(len, heard())) >= 4)
            assert sorted({ts for each in heard() for ts in each}) == sorted(message.ts for message in said)
            assert all(heard()), "each host has got some"
            await shows_an_answer(server, adapter, said[0])
            await shows_an_answer(server, other, said[1])


async def test_a_socket_is_open_while_the_host_has_the_turn() -> None:
    async with FakeSlack() as server:
        ana, general = server.user("ana"), server.channel("general")
        turns = ScriptedTurns("slack")
        async with run_host(server, turns) as (adapter, core):
            for number in (1, 2):
                await server.until(lambda: server.sockets.online and core.caught_up == number)  # noqa: B023 -- awaited in the same round
                question = await ana.says(general, f"question {number}", mention=True)
                await core.message(number)
                turns.take("slack")
                await server.until(lambda: not server.sockets.sockets)
                await shows_an_answer(server, adapter, question)
                turns.give("slack")


@pytest.mark.parametrize(("hosts", "warned"), [(1, True), (2, False), (0, False)])
async def test_a_program_that_takes_a_part_of_the_events_is_warned_of(
    hosts: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeSlack() as server:
        ours, other = ScriptedTurns("slack"), ScriptedTurns("slack")
        ours.hosts = hosts
        async with run_host(server, other) as (_, stranger):
            await server.until(lambda: stranger.caught_up)
            assert "takes a part of the messages" not in caplog.text
            async with run_host(server, ours) as (_, core):
                await server.until(lambda: core.caught_up)
                assert ("takes a part of the messages" in caplog.text) == warned


async def test_replacing_a_socket_is_no_reason_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeSlack() as server, run_host(server, Always()) as (_, core):
        await server.until(lambda: core.caught_up)
        await server.sockets.disconnect("refresh_requested")
        await server.until(lambda: core.caught_up == 2)
        assert "takes a part of the messages" not in caplog.text
