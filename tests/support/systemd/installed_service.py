"""A service in the systemd, with a user on a fake Discord, and operations on its processes and settings."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.builders.tiny_models import make_tiny
from tests.support.fakes.connect_proxy import ConnectProxy
from tests.support.fakes.discord import FakeDiscord, Message
from tests.support.fakes.hub import FakeHub, Repo
from tests.support.systemd.booted_systemd import BootedSystemd, boot_systemd
from tests.support.systemd.readme_steps import steps

SETTINGS = "/etc/inhouse/.env"
DROPINS = "/etc/systemd/system/inhouse.service.d"
OPERATOR = "/opt/operator"
PATIENCE_S = 180.0
CATALOG = '[[model]]\nname = "phi-4"\nrepo = "acme/phi-4"\n'
"""phi-4 is the model that the README fetches; here it is a tiny one from the fake Hub."""


def finished(question: Message) -> list[Message]:
    """The finished answers to a question."""
    shown = question.channel.messages
    return [each for each in shown if each.reference is question and any(b.get("emoji") for b in each.buttons)]


class InstalledService:
    """A service in the systemd, and what was said to it."""

    def __init__(self, systemd: BootedSystemd, server: FakeDiscord, proxy: ConnectProxy, hub: FakeHub) -> None:
        self.systemd, self.server, self._proxy, self._hub = systemd, server, proxy, hub
        self.ana, self.general = server.user("ana"), server.text_channel("general")
        self.said: list[Message] = []
        self._steps = steps()

    async def follows(self, heading: str, stdin: str = "") -> str:
        """Runs the README's commands under a heading; their output. Each heading can be used once."""
        where = OPERATOR if heading == "Install" else f"{OPERATOR}/inhouse"
        return await self.systemd.follows(self._steps.pop(heading), where, stdin, HF_ENDPOINT=self._hub.endpoint)

    def is_told(self) -> None:
        """Asserts that every heading of the README was used."""
        assert not self._steps, f"not followed: {list(self._steps)}"

    async def settle(self, ca: str) -> None:
        """Sets what only the test needs: the fakes' addresses, small model limits, and short restart delays."""
        lines = [
            "INHOUSE_CATALOG=/etc/inhouse/models.toml",
            f"INHOUSE_DISCORD_PROXY={self._proxy.url}",
            "INHOUSE_TEMPERATURE=0",
            "INHOUSE_MAX_TOKENS=40",
            "INHOUSE_KV_CACHE_MB=32",
            "INHOUSE_DEVICE=cpu",
        ]
        await self.add_settings(*lines)
        await self.systemd.write("/etc/inhouse/models.toml", CATALOG)
        await self.systemd.write("/etc/inhouse/ca.pem", ca)
        there = "PYTHONPATH=/opt/packages LD_LIBRARY_PATH=/opt/python/lib SSL_CERT_FILE=/etc/inhouse/ca.pem"
        await self.systemd.write(f"{DROPINS}/systemd.conf", f"[Service]\nRestartSec=1\nEnvironment={there}\n")
        await self.systemd.does("systemctl", "daemon-reload")

    async def add_settings(self, *lines: str) -> None:
        """Appends lines to the settings file without changing its permissions."""
        await self.systemd.does("tee", "-a", SETTINGS, stdin="\n" + "\n".join(lines) + "\n")

    async def asks(self, text: str) -> Message:
        """Asks a question, with a mention of the bot."""
        self.said.append(await self.ana.says(self.general, text, mention=True))
        return self.said[-1]

    async def is_answered(self, question: Message) -> None:
        """Asserts that a question gets exactly one answer of more than 10 characters."""
        try:
            await self.server.until(lambda: finished(question), PATIENCE_S)
        except AssertionError as error:
            pytest.fail(f"{error}\n" + "\n".join(entry["MESSAGE"] for entry in await self.journal()))
        (answer,) = finished(question)
        assert len(answer.content) > 10
        self.said.append(answer)

    async def talks(self, text: str) -> None:
        """Asks a question and waits for its answer."""
        await self.is_answered(await self.asks(text))

    async def group(self) -> str:
        """The directory of the service's control group."""
        return "/sys/fs/cgroup" + await self.systemd.shows("inhouse", "ControlGroup")

    async def pids(self) -> dict[str, int]:
        """The process ids of the service (main) and its engine."""
        main = await self.systemd.shows("inhouse", "MainPID")
        engine = await self.systemd.does("pgrep", "--parent", main, "--full", "bot.engine.server.runner")
        return {"main": int(main), "engine": int(engine)}

    async def signals(self, number: str, which: str) -> dict[str, int]:
        """Sends a signal to one of the processes; the process ids before it."""
        before = await self.pids()
        await self.systemd.does("kill", f"-{number}", str(before[which]))
        return before

    async def journal(self) -> list[dict[str, str]]:
        """The service's journal entries."""
        told = await self.systemd.does("journalctl", "--unit", "inhouse", "--output", "json", "--all", "--no-pager")
        return [json.loads(line) for line in told.splitlines()]

    async def is_logged(self, words: str, after: int = 0) -> dict[str, str]:
        """Waits for a journal entry that matches, after the first `after` ones; the newest match."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if found := [entry for entry in (await self.journal())[after:] if re.search(words, entry["MESSAGE"])]:
                    return found[-1]
                await asyncio.sleep(0.1)

    async def becomes(self, state: str) -> None:
        """Waits until the unit is in this state."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if await self.systemd.shows("inhouse", "ActiveState") == state:
                    return
                await asyncio.sleep(0.1)


@asynccontextmanager
async def install_service(tmp_path: Path) -> AsyncIterator[InstalledService]:
    """Boots a systemd with the project's source, a fake Hub with one model, and a fake Discord."""
    model = make_tiny("llama", tmp_path / "tiny")
    files = {each.name: each.read_bytes() for each in model.iterdir()}
    with FakeHub() as hub:
        hub.repos["acme/phi-4"] = Repo(files)
        async with (
            FakeDiscord() as server,
            ConnectProxy(server.port) as proxy,
            boot_systemd(tmp_path / "systemd", {}) as systemd,
        ):
            await systemd.does("mkdir", OPERATOR)
            yield InstalledService(systemd, server, proxy, hub)
