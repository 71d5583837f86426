"""Tests gateway faults on Discord with the real service: one answer each, and no pings."""

import asyncio
from pathlib import Path

import pytest

from adapters.discord.gateway.gateway import GatewayTiming
from bot.types.errors import ConfigError, FatalAdapterError
from tests.support.builders.discord_service import answered_once, run_discord_service
from tests.support.builders.platform_services import only_asked
from tests.support.builders.storage_rows import rows
from tests.support.fakes.discord import FakeDiscord, Message

pytest_plugins = ["tests.support.fixtures.discord"]

POST, EDIT = "/channels/{channel_id}/messages", "/channels/{channel_id}/messages/{message_id}"
EVIL = "@everyone @here <@&{role}> <@{user}> https://example.com/secret"


async def test_a_question_is_answered_while_one_watches(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        setup.engine.answers("hello", "this is the whole answer")
        setup.gates.hold("hello/2")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.general.until(lambda: setup.general.messages and setup.general.messages[0].content == "this is ▌")
        await setup.gates.open("hello/2")
        assert await setup.answer_to(question) == "this is the whole answer"
        assert len(setup.general.typing) == 1


@pytest.mark.fault(7)
async def test_op_7_in_the_middle_of_an_answer_changes_nothing(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        setup.gates.hold("hello/2")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.gates.reached("hello/2")
        discord_server.gateway.reconnect()
        await discord_server.until(lambda: discord_server.gateway.resumes)
        discord_server.redeliver(question)
        await setup.gates.open("hello/2")
        await only_asked(setup, "hello")
        await answered_once(setup, question)


@pytest.mark.fault(8)
async def test_what_was_said_while_a_session_was_lost_is_read_back(tmp_path: Path, discord_server: FakeDiscord) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        first = await setup.ana.says(setup.general, "one", mention=True)
        await setup.answer_to(first)
        discord_server.gateway.invalidate()
        await discord_server.until(lambda: not discord_server.gateway.online)
        missed = await setup.ben.says(setup.general, "two", mention=True)
        await setup.ana.says(setup.general, "just talk")
        await answered_once(setup, first, missed)
        assert len(discord_server.gateway.identifies) == 2


@pytest.mark.fault(9)
async def test_a_dead_connection_loses_nothing(tmp_path: Path, discord_server: FakeDiscord) -> None:
    discord_server.gateway.heartbeat_interval = 0.3
    async with run_discord_service(
        tmp_path, discord_server, timing=GatewayTiming(heartbeat=0.6, guilds=0.05, gap=0.1)
    ) as setup:
        discord_server.gateway.freeze()
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await answered_once(setup, question)
        assert any(frame.op == 6 for frame in discord_server.frames if not frame.sent)
        # The session was resumed, so the close code was not 1000. A busy machine may reconnect twice.
        assert len(discord_server.gateway.identifies) == 1


@pytest.mark.fault(11)
async def test_a_channel_that_was_never_heard_is_not_read_back(tmp_path: Path, discord_server: FakeDiscord) -> None:
    old = discord_server.text_channel("old")
    await discord_server.user("cleo").says(old, "years ago", mention=True)
    async with run_discord_service(tmp_path, discord_server) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await answered_once(setup, question)
        await only_asked(setup, "hello")
        assert not old.messages


@pytest.mark.fault(12)
@pytest.mark.parametrize("code", [4004, 4014])
async def test_a_refusal_at_the_start_is_a_mistake_of_the_configuration(
    tmp_path: Path, discord_server: FakeDiscord, code: int
) -> None:
    discord_server.gateway.refuse_identify(code)
    async with run_discord_service(tmp_path, discord_server, connected=False) as setup:
        with pytest.raises((ConfigError, FatalAdapterError), match=r"https://discord\.com/developers"):
            await setup.running


@pytest.mark.fault(31)
async def test_a_button_stops_and_another_answers_again_after_a_restart(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    async with run_discord_service(tmp_path, discord_server) as setup:
        setup.gates.hold("hello/2")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.general.until(lambda: setup.general.messages)
        assert "Only `ana`" in await (await setup.ben.clicks(setup.general.messages[0], "Stop")).answered()
        assert await (await setup.ana.clicks(setup.general.messages[0], "Stop")).answered() == "Stopped."
        await setup.answer_to(question)
    async with run_discord_service(tmp_path, discord_server, earlier=setup) as again:
        await again.ana.clicks(again.general.messages[0], "Regenerate")
        await discord_server.until(lambda: len(again.answers_to(question)) == 2)
        assert again.answers_to(question)[1][0].content == "You said: hello"


async def test_messages_that_come_while_it_all_restarts_are_each_answered_once(
    tmp_path: Path, discord_server: FakeDiscord
) -> None:
    questions: list[Message] = []
    async with run_discord_service(tmp_path, discord_server, per_user=100) as setup:
        for route in (f"POST {POST}", f"PATCH {EDIT}", f"GET {POST}"):
            discord_server.limits.set(route, 1000, 1)
        for number in range(5):
            questions.append(await setup.ana.says(setup.general, f"number {number}", mention=True))
        await setup.answer_to(questions[0])
    for _ in range(2):
        questions.append(await setup.ana.says(setup.general, f"away {len(questions)}", mention=True))
        async with run_discord_service(tmp_path, discord_server, earlier=setup, per_user=100) as setup:
            questions.append(await setup.ana.says(setup.general, f"back {len(questions)}", mention=True))
            await asyncio.sleep(0.1)
    async with run_discord_service(tmp_path, discord_server, earlier=setup, per_user=100) as last:
        for question in questions:
            await last.answer_to(question)
        assert len(last.general.messages) == len(questions)
        assert rows(tmp_path / "state", "SELECT count(*) FROM requests") == [(len(questions),)]
