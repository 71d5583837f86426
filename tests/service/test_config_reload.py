"""Tests settings that are reloaded while the service runs, and its end by signals."""

import asyncio
import re
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from bot.models.catalog import Catalog
from tests.support.builders import discord_service, slack_service
from tests.support.builders.service import make_settings
from tests.support.builders.storage_rows import rows
from tests.support.builders.tiny_models import make_tiny
from tests.support.fakes.connect_proxy import ConnectProxy
from tests.support.fakes.discord import Can, Channel, FakeDiscord, Person
from tests.support.fakes.slack_server import FakeSlack

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
READ, REFUSED = "The configuration was reloaded", "The configuration was not reloaded, and the old one stays"


@dataclass
class Run:
    """`inhouse run` in a directory with a .env, and an admin who queries the settings."""

    process: Process
    server: FakeDiscord
    settings: Path
    admin: Person
    general: Channel
    log: list[str] = field(default_factory=list)

    async def reads(self, words: str) -> str:
        """Reads the log up to a line that matches; that line."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stderr.readline()).decode():
                self.log.append(line)
                if re.search(words, line):
                    return line
        pytest.fail(f"it ended without: {words}\n{''.join(self.log)}")

    async def reloads(self, words: str, **lines: str) -> str:
        """Changes lines of .env and sends SIGHUP; the log line that matches."""
        change(self.settings, lines)
        self.process.send_signal(signal.SIGHUP)
        return await self.reads(words)

    async def holds(self, command: str) -> str:
        """The response to a command without a value."""
        interaction = await self.admin.slash(command, channel=self.general)
        return await interaction.answered(PATIENCE_S)

    async def asked(self) -> None:
        """Waits until a request is running."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if ("running",) in rows(self.settings.parent / "state", "SELECT status FROM requests"):
                    return
                await asyncio.sleep(0.05)

    def engine(self) -> psutil.Process:
        children = psutil.Process(self.process.pid).children()
        (engine,) = [each for each in children if "bot.engine.server.runner" in each.cmdline()]
        return engine

    async def ends(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            _, log = await self.process.communicate()
        self.log += log.decode().splitlines(keepends=True)
        assert self.process.returncode is not None
        return self.process.returncode


def change(settings: Path, lines: dict[str, str]) -> None:
    before = [line for line in settings.read_text().splitlines() if line.partition("=")[0] not in lines]
    settings.write_text("\n".join([*before, *(f"{name}={value}" for name, value in lines.items())]) + "\n")


@asynccontextmanager
async def inhouse_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    model = make_tiny("llama", tmp_path / "tiny")
    async with FakeDiscord() as server, ConnectProxy(server.port) as proxy:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("SSL_CERT_FILE", str(server.write_ca(tmp_path / "ca.pem")))
        monkeypatch.setenv("INHOUSE_DISCORD_PROXY", proxy.url)
        settings = tmp_path / ".env"
        settings.write_text(f"DISCORD_BOT_TOKEN={server.token}\nINHOUSE_MODEL={model}\nINHOUSE_STATE_DIR=state\n")
        change(settings, {"INHOUSE_TEMPERATURE": "0.1", "INHOUSE_KV_CACHE_MB": "32", "INHOUSE_DRAIN": "600"})
        command = (sys.executable, "-m", "bot.cli", "run")
        process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
        run = Run(process, server, settings, server.user("ana", can=Can.MANAGE_GUILD), server.text_channel("general"))
        try:
            await server.until(lambda: server.gateway.online and server.commands, PATIENCE_S)
            await run.reads("Loaded tiny")
            yield run
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def test_a_hangup_has_the_whole_configuration_read_again_or_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inhouse_run(tmp_path, monkeypatch) as run:
        assert await run.holds("temperature") == "temperature is 0.1 here."
        await run.reloads(READ, INHOUSE_TEMPERATURE="0.2", INHOUSE_SYSTEM_PROMPT="Be brief.")
        assert await run.holds("temperature") == "temperature is 0.2 here."
        assert "Be brief." in await run.holds("system")

        told = await run.reloads(REFUSED, INHOUSE_TEMPERATURE="9", INHOUSE_TOP_P="0.5")
        assert "INHOUSE_TEMPERATURE" in told
        assert await run.holds("temperature") == "temperature is 0.2 here."
        assert await run.holds("top_p") == "top_p is 0.95 here."

        (tmp_path / "models.toml").write_text("[[model]]\nname = 7\n")
        told = await run.reloads(REFUSED, INHOUSE_TEMPERATURE="0.3", INHOUSE_CATALOG="models.toml")
        assert "models.toml" in told
        assert await run.holds("temperature") == "temperature is 0.2 here."

        (tmp_path / "models.toml").write_text('[[model]]\nname = "another"\nrepo = "acme/another"\n')
        await run.reloads(READ, INHOUSE_TOP_P="0.5")
        assert await run.holds("temperature") == "temperature is 0.3 here."
        assert "another" in await run.holds("model")

        await run.reloads(REFUSED, INHOUSE_MODEL="nowhere")
        token = "MTA1NjQ3ODk4NzY1NDMyMTA5OA.GxYzAb.abcdefghijklmnopqrstuvwxyz0123456789AB"
        late = {"DISCORD_BOT_TOKEN": token, "INHOUSE_STATE_DIR": "elsewhere", "INHOUSE_DEVICE": "cpu"}
        change(run.settings, {"INHOUSE_MODEL": str(tmp_path / "tiny")})
        told = await run.reloads("restart Inhouse to apply", **late)
        assert "DISCORD_BOT_TOKEN, INHOUSE_DEVICE, INHOUSE_STATE_DIR: changed" in told
        assert len(run.server.gateway.identifies) == 1, "its session is the one that it had"
        run.process.send_signal(signal.SIGTERM)
        assert await run.ends() == 0
        assert not (tmp_path / "elsewhere").exists()
        assert not [line for line in run.log if token in line or run.server.token in line or "Traceback" in line]


async def test_a_second_sigterm_ends_it_at_once_and_the_question_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inhouse_run(tmp_path, monkeypatch) as run:
        run.engine().suspend()  # the answer never ends, and may take ten minutes
        await run.admin.says(run.general, "hello", mention=True)
        await run.asked()
        run.process.send_signal(signal.SIGTERM)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run.process.wait(), 1)
        began = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        assert await run.ends() == 0
        assert time.monotonic() - began < 20
        assert not [line for line in run.log if "Traceback" in line]
        assert rows(tmp_path / "state", "SELECT status, attempts FROM requests") == [("waiting", 0)]


async def test_discord_goes_by_what_was_read_again(tmp_path: Path) -> None:
    async with (
        FakeDiscord() as server,
        discord_service.run_discord_service(tmp_path, server, min_interval_s=0.0) as setup,
    ):
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.answer_to(question)
        assert question.thread is None
        session = len(server.gateway.identifies)
        settings = make_settings(tmp_path, discord_bot_token=server.token, reply_in_thread=True, attach_over=7)
        assert setup.service.reload(settings, Catalog.of(settings)) == []
        question = await setup.ana.says(setup.general, "hello again", mention=True)
        await server.until(lambda: question.thread and "You" in question.thread.messages[-1].content)
        assert setup.adapter.limits.attach_over == 7
        assert len(server.gateway.identifies) == session


async def test_slack_goes_by_what_was_read_again(tmp_path: Path) -> None:
    async with FakeSlack() as server, slack_service.run_slack_service(tmp_path, server) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await server.until(lambda: setup.answers_to(question))
        assert setup.answers_to(question)[0].thread_ts == question.ts
        tokens = {"slack_bot_token": server.bot_token, "slack_app_token": server.app_token}
        settings = make_settings(
            tmp_path, **tokens, slack_api_url=server.api_url, reply_in_thread=False, slack_command="/another"
        )
        assert setup.service.reload(settings, Catalog.of(settings)) == ["INHOUSE_SLACK_COMMAND"]
        await setup.ana.says(setup.general, "hello again", mention=True)
        await server.until(lambda: [each for each in setup.general.messages if not each.thread_ts and each.labels])
