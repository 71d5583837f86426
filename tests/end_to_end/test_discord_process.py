"""Tests `inhouse run` as a process with the real SmolLM2 and a fake Discord that it reaches only through a proxy."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.fakes.connect_proxy import ConnectProxy
from tests.support.fakes.discord import FakeDiscord, Message

ROOT = Path(__file__).parents[2]
CAPITAL = "What is the capital of France?"
PATIENCE_S = 100


@dataclass
class Run:
    """`inhouse run`, its fake Discord, and the proxy between them."""

    process: Process
    server: FakeDiscord
    proxy: ConnectProxy

    async def ends(self) -> tuple[int, list[str]]:
        """Waits for the end; the exit status and the lines of the log."""
        async with asyncio.timeout(PATIENCE_S):
            _, log = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, log.decode().splitlines()


@asynccontextmanager
async def inhouse_run(
    server: FakeDiscord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str = ""
) -> AsyncIterator[Run]:
    async with ConnectProxy(server.port) as proxy:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("SSL_CERT_FILE", str(server.write_ca(tmp_path / "ca.pem")))
        monkeypatch.setenv("DISCORD_BOT_TOKEN", token or server.token)
        monkeypatch.setenv("INHOUSE_DISCORD_PROXY", proxy.url)
        monkeypatch.setenv("INHOUSE_STATE_DIR", str(tmp_path / "state"))
        monkeypatch.setenv("INHOUSE_TEMPERATURE", "0")
        monkeypatch.setenv("INHOUSE_MAX_TOKENS", "40")
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bot.cli", "run", stdout=PIPE, stderr=PIPE)
        try:
            yield Run(process, server, proxy)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def finished(question: Message) -> list[Message]:
    """The finished answers to a question."""
    shown = question.channel.messages
    return [each for each in shown if each.reference is question and any(b.get("emoji") for b in each.buttons)]


async def test_mentions_in_eight_channels_are_answered_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_dir: Path
) -> None:
    monkeypatch.setenv("INHOUSE_PER_USER", "8")  # all are waiting for a moment
    async with FakeDiscord() as server:
        ana = server.user("ana")
        channels = [server.text_channel(f"channel-{number}") for number in range(8)]
        async with inhouse_run(server, tmp_path, monkeypatch) as run:
            await server.until(lambda: server.gateway.online and server.commands, PATIENCE_S)
            first = await ana.says(channels[0], CAPITAL, mention=True)
            await server.until(lambda: finished(first), PATIENCE_S)
            assert "Paris" in finished(first)[0].content
            questions = [await ana.says(channel, CAPITAL, mention=True) for channel in channels]
            await server.until(lambda: all(map(finished, questions)), PATIENCE_S)
            assert all("Paris" in finished(question)[0].content for question in questions)
            assert all(len(channel.messages) == len(channel.history) / 2 for channel in channels)
            assert not server.pings
            assert server.rate_limited == 0
            assert set(run.proxy.hosts) <= {"discord.com", "gateway.discord.gg", "gateway-us-east1-b.discord.gg"}
            run.process.send_signal(signal.SIGTERM)
            status, log = await run.ends()
            assert status == 0
            assert not [line for line in log if "Traceback" in line or server.token in line]


@pytest.mark.fault(12)
async def test_a_token_that_is_refused_is_a_mistake_that_no_restart_cures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_dir: Path
) -> None:
    async with FakeDiscord() as server, inhouse_run(server, tmp_path, monkeypatch, token="old") as run:
        status, log = await run.ends()
        assert status == 78
        assert log[-1].startswith("inhouse: Discord refused the bot's token")
        assert not [line for line in log if "Traceback" in line]


@pytest.mark.fault(12)
@pytest.mark.parametrize(("code", "fix"), [(4004, "/bot"), (4014, "Message Content Intent")])
async def test_a_session_that_is_refused_at_the_start_ends_it_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_dir: Path, code: int, fix: str
) -> None:
    async with FakeDiscord() as server:
        server.gateway.refuse_identify(code)
        async with inhouse_run(server, tmp_path, monkeypatch) as run:
            status, log = await run.ends()
        assert status == 78
        assert log[-1].startswith("inhouse: ")
        assert "https://discord.com/developers/applications/" in log[-1]
        assert fix in log[-1]
        assert not [line for line in log if "Traceback" in line or server.token in line]
        assert len(server.gateway.identifies) == 1
