"""Tests `inhouse run` as a process with the real SmolLM2 and a fake Slack; and on both platforms at once."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.support.fakes.connect_proxy import ConnectProxy
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.slack_server import FakeSlack, Message

ROOT = Path(__file__).parents[2]
CAPITAL = "What is the capital of France?"
PATIENCE_S = 100


@asynccontextmanager
async def inhouse_run(server: FakeSlack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Process]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SLACK_BOT_TOKEN", server.bot_token)
    monkeypatch.setenv("SLACK_APP_TOKEN", server.app_token)
    monkeypatch.setenv("INHOUSE_SLACK_API_URL", server.api_url)
    monkeypatch.setenv("INHOUSE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("INHOUSE_TEMPERATURE", "0")
    monkeypatch.setenv("INHOUSE_MAX_TOKENS", "40")
    monkeypatch.setenv("INHOUSE_PER_USER", "20")
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bot.cli", "run", stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def ended(process: Process) -> tuple[int | None, list[str]]:
    """Waits for the end; the exit status and the lines of the log."""
    async with asyncio.timeout(PATIENCE_S):
        _, log = await process.communicate()
    return process.returncode, log.decode().splitlines()


def finished(question: Message) -> list[Message]:
    """The finished answers in the thread of a question."""
    return [each for each in question.channel.messages if each.thread_ts == question.ts and "Regenerate" in each.labels]


async def test_a_mention_gets_its_answer_in_its_thread_and_so_do_eight_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_dir: Path
) -> None:
    async with FakeSlack() as server:
        ana, general = server.user("ana"), server.channel("general")
        async with inhouse_run(server, tmp_path, monkeypatch) as process:
            await server.until(lambda: server.sockets.online, PATIENCE_S)
            first = await ana.says(general, CAPITAL, mention=True)
            await server.until(lambda: finished(first), PATIENCE_S)
            assert "Paris" in finished(first)[0].shown
            questions = [await ana.says(general, CAPITAL, mention=True) for _ in range(8)]
            await server.until(lambda: all(map(finished, questions)), PATIENCE_S)
            assert all("Paris" in finished(question)[0].shown for question in questions)
            assert len(general.messages) == 9, "one answer each"
            assert server.pings == []
            assert server.unfurls == []
            assert server.rate_limited == 0
            assert max(ack.seconds for ack in server.acks) < 3, "also while the model was loading"
            process.send_signal(signal.SIGTERM)
            status, log = await ended(process)
            assert status == 0
            secrets = (server.bot_token, server.app_token)
            assert not [line for line in log if "Traceback" in line or any(token in line for token in secrets)]


@pytest.mark.parametrize(
    ("app", "error", "names"),
    [
        (False, "invalid_auth", "SLACK_BOT_TOKEN"),
        (True, "invalid_auth", "SLACK_APP_TOKEN"),
        (True, "missing_scope", "connections:write"),
        (False, "account_inactive", "SLACK_BOT_TOKEN"),
    ],
)
async def test_a_token_that_is_refused_is_a_mistake_that_no_restart_cures(
    app: bool, error: str, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_dir: Path
) -> None:
    async with FakeSlack() as server:
        server.refuse_token(error, app=app)
        async with inhouse_run(server, tmp_path, monkeypatch) as process:
            status, log = await ended(process)
            assert status == 78
            assert log[-1].startswith("inhouse: ")
            assert names in log[-1]
            assert "api.slack.com/apps" in log[-1]
            assert not [line for line in log if "Traceback" in line]


async def test_both_platforms_at_once_keep_their_histories_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_dir: Path
) -> None:
    async with FakeSlack() as slack, FakeDiscord() as discord, ConnectProxy(discord.port) as proxy:
        monkeypatch.setenv("SSL_CERT_FILE", str(discord.write_ca(tmp_path / "ca.pem")))
        monkeypatch.setenv("DISCORD_BOT_TOKEN", discord.token)
        monkeypatch.setenv("INHOUSE_DISCORD_PROXY", proxy.url)
        ana, general = slack.user("ana"), slack.channel("general")
        ben, room = discord.user("ben"), discord.text_channel("room")
        async with inhouse_run(slack, tmp_path, monkeypatch) as process:
            await slack.until(lambda: slack.sockets.online, PATIENCE_S)
            await discord.until(lambda: discord.gateway.online and discord.commands, PATIENCE_S)
            question = await ana.says(general, CAPITAL, mention=True)
            await ben.says(room, "What is the capital of Italy?", mention=True)
            await slack.until(lambda: finished(question), PATIENCE_S)
            await discord.until(lambda: room.messages and len(room.messages[-1].buttons) > 1, PATIENCE_S)
            assert "Paris" in finished(question)[0].shown
            assert "Italy" in room.messages[0].content
            await ana.says(general, "!why", thread=question)
            await slack.until(lambda: general.ephemerals, PATIENCE_S)
            shown = " ".join(message.shown for message in general.ephemerals)
            assert "Italy" not in shown
            process.send_signal(signal.SIGTERM)
            assert (await ended(process))[0] == 0
