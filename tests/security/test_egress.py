"""Tests that nothing leaves the machine except to the two platforms and, on pull, to the hub."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.fakes.connect_proxy import ConnectProxy
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.hub import FakeHub, Repo
from tests.support.fakes.slack_server import FakeSlack
from tests.support.network_audit import connections_of, seen, strangers, witnessed

ROOT = Path(__file__).parents[2]
CAPITAL = "What is the capital of France?"
PATIENCE_S = 100


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes variables that keep libraries offline."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("online")
async def test_a_conversation_connects_to_the_platforms_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_dir: Path
) -> None:
    async with FakeSlack() as slack, FakeDiscord() as discord, ConnectProxy(discord.port) as proxy:
        settings = {
            "SSL_CERT_FILE": str(discord.write_ca(tmp_path / "ca.pem")),
            "DISCORD_BOT_TOKEN": discord.token,
            "INHOUSE_DISCORD_PROXY": proxy.url,
            "SLACK_BOT_TOKEN": slack.bot_token,
            "SLACK_APP_TOKEN": slack.app_token,
            "INHOUSE_SLACK_API_URL": slack.api_url,
            "INHOUSE_STATE_DIR": str(tmp_path / "state"),
            "INHOUSE_MAX_TOKENS": "10",
            "INHOUSE_HTTP": "127.0.0.1:0",
            **witnessed(tmp_path / "witness", ROOT),
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        ana, general = slack.user("ana"), slack.channel("general")
        ben, room = discord.user("ben"), discord.text_channel("room")
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bot.cli", "run", stdout=PIPE, stderr=PIPE)
        try:
            await slack.until(lambda: slack.sockets.online, PATIENCE_S)
            await discord.until(lambda: discord.gateway.online and discord.commands, PATIENCE_S)
            await ana.says(general, CAPITAL, mention=True, files={"notes.txt": b"see https://example.org/notes"})
            await ben.says(room, f"{CAPITAL} See https://example.org/x", mention=True)
            await slack.until(lambda: any("Regenerate" in each.labels for each in general.messages), PATIENCE_S)
            await discord.until(lambda: room.messages and len(room.messages[-1].buttons) > 1, PATIENCE_S)
            assert strangers(connections_of(process.pid)) == set()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                await process.communicate()
            assert process.returncode == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        told = seen(tmp_path / "witness")
        assert {event for event, _ in told} >= {"socket.connect", "socket.getaddrinfo"}, "or nothing was witnessed"
        assert strangers({host for _, host in told}) == set()
        assert set(proxy.hosts) <= {"discord.com", "gateway.discord.gg", "cdn.discordapp.com"}


@pytest.mark.usefixtures("online")
async def test_a_pull_connects_to_the_hub_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub() as hub:
        files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"w" * 5000}
        hub.repos["acme/chatty"] = Repo(files)
        settings = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "INHOUSE_MODELS": "acme/chatty",
            "INHOUSE_MODEL": "acme/chatty",
            "INHOUSE_CACHE_DIR": str(tmp_path / "cache"),
            **witnessed(tmp_path / "witness", ROOT),
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bot.cli", "pull", "acme/chatty", "--yes"), stdout=PIPE, stderr=PIPE
        )
        async with asyncio.timeout(PATIENCE_S):
            _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
        assert strangers({host for _, host in seen(tmp_path / "witness")}) == set()
        assert {path.split("/")[1] for _, path, _ in hub.requests} <= {"api", "acme"}
        assert not [path for _, path, _ in hub.requests if "telemetry" in path]
        assert not [agent for agent in hub.agents if "torch" in agent or "session_id" in agent], (
            "nothing about this machine"
        )
