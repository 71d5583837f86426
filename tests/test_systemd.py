"""The shipped unit: sound, hardened, and under a real systemd."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes.connect_proxy import ConnectProxy
from tests.fakes.discord import FakeDiscord, Message
from tests.systemd_lab import ROOT, Lab, systemd_lab, why_not
from tests.tiny_models import make_tiny

UNIT = ROOT / "systemd" / "inhouse.service"
SETTINGS = "/etc/inhouse/.env"
MOST_EXPOSED = 1.5
PATIENCE_S = 60.0

analysed = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
booted = pytest.mark.skipif(bool(why_not()), reason=why_not())


def analyse(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, timeout=60)


@analysed
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name  # a copy that starts what is there
    here.write_text(UNIT.read_text("utf-8").replace("/opt/inhouse/bin/inhouse", "/bin/true"))
    done = analyse("verify", str(here))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@analysed
def test_the_unit_is_hardened() -> None:
    done = analyse("security", "--offline=yes", str(UNIT))
    found = re.search(r"exposure level for inhouse.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def finished(question: Message) -> list[Message]:
    """The finished answers to a question."""
    shown = question.channel.messages
    return [each for each in shown if each.reference is question and any(b.get("emoji") for b in each.buttons)]


class Story:
    """Somebody talks with the service in the lab, and somebody else does things to it."""

    def __init__(self, lab: Lab, server: FakeDiscord) -> None:
        self.lab, self.server = lab, server
        self.ana, self.general = server.user("ana"), server.text_channel("general")
        self.said: list[Message] = []

    async def asks(self, text: str) -> Message:
        """Ana mentions the bot."""
        self.said.append(await self.ana.says(self.general, text, mention=True))
        return self.said[-1]

    async def is_answered(self, question: Message) -> None:
        """There is one answer, of some length."""
        await self.server.until(lambda: finished(question), PATIENCE_S)
        (answer,) = finished(question)
        assert len(answer.content) > 10
        self.said.append(answer)

    async def pids(self) -> dict[str, int]:
        """The main process and the engine's, by what they are."""
        main = await self.lab.shows("inhouse", "MainPID")
        group = await self.lab.shows("inhouse", "ControlGroup")
        (engine,) = set((await self.lab.does("cat", f"/sys/fs/cgroup{group}/cgroup.procs")).split()) - {main}
        return {"main": int(main), "engine": int(engine)}

    async def journal(self) -> list[dict[str, str]]:
        """The service's entries."""
        told = await self.lab.does("journalctl", "--unit", "inhouse", "--output", "json", "--all", "--no-pager")
        return [json.loads(line) for line in told.splitlines()]

    async def is_logged(self, words: str) -> dict[str, str]:
        """The newest entry with these words, once there is one."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if found := [entry for entry in await self.journal() if words in entry["MESSAGE"]]:
                return found[-1]
            await asyncio.sleep(0.1)
        pytest.fail(f"not logged: {words}")


async def settle(lab: Lab, server: FakeDiscord, proxy: str, ca: str) -> None:
    """What the operator sets: the token as a credential, the rest in .env; and, for the test, the way to the fake."""
    await lab.write("/etc/credstore/DISCORD_BOT_TOKEN", server.token + "\n", "600")
    lines = [
        "INHOUSE_MODEL=/opt/models/tiny",
        f"INHOUSE_DISCORD_PROXY={proxy}",
        "INHOUSE_TEMPERATURE=0",
        "INHOUSE_MAX_TOKENS=40",
        "INHOUSE_KV_CACHE_MB=32",
        "INHOUSE_DEVICE=cpu",
    ]
    await lab.write(SETTINGS, "\n".join(lines) + "\n", "640", "root:inhouse")
    await lab.write("/etc/inhouse/ca.pem", ca)
    dropin = (
        "[Service]\nRestartSec=1\nEnvironment=PYTHONPATH=/opt/source LD_LIBRARY_PATH=/opt/python/lib "
        "SSL_CERT_FILE=/etc/inhouse/ca.pem HF_HUB_OFFLINE=1\n"
    )
    await lab.write("/etc/systemd/system/inhouse.service.d/lab.conf", dropin)
    await lab.does("systemctl", "daemon-reload")


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[Story]:
    """The unit, installed and started, with a model of its own on the CPU."""
    model = make_tiny("llama", tmp_path / "tiny")
    async with (
        FakeDiscord() as server,
        ConnectProxy(server.port) as proxy,
        systemd_lab(tmp_path / "lab", {model: "models/tiny"}) as lab,
    ):
        await settle(lab, server, proxy.url, server.write_ca(tmp_path / "ca.pem").read_text())
        story = Story(lab, server)
        if (await lab.tries("systemctl", "start", "inhouse"))[0]:
            pytest.fail("\n".join(entry["MESSAGE"] for entry in await story.journal()))
        yield story


async def killed(story: Story, which: str) -> dict[str, int]:
    """One of the processes gets a SIGKILL; the processes as they were."""
    before = await story.pids()
    await story.lab.does("kill", "-KILL", str(before[which]))
    return before


async def reloads(story: Story) -> None:
    """The settings are read again: wrong ones are refused, good ones hold."""
    settings = await story.lab.does("cat", SETTINGS)
    for line, logged, priority in (
        ("INHOUSE_TOP_P=9", "The new configuration is not used", "3"),
        ("INHOUSE_TOP_P=0.5", "The configuration was read again", "6"),
        ("INHOUSE_DEVICE=auto", "INHOUSE_DEVICE: changed", "4"),
    ):
        await story.lab.write(SETTINGS, f"{settings}\n{line}\n", "640", "root:inhouse")
        await story.lab.does("systemctl", "reload", "inhouse")
        assert (await story.is_logged(logged))["PRIORITY"] == priority
        assert await story.lab.shows("inhouse", "ActiveState") == "active"


async def is_discreet(story: Story) -> None:
    """The journal has what happened, under its priority, and nothing of what was said."""
    entries = await story.journal()
    told = json.dumps(entries)
    assert {entry["PRIORITY"] for entry in entries if entry["SYSLOG_IDENTIFIER"] == "inhouse"} >= {"3", "4", "6"}
    for secret in (story.server.token, *(message.content.rpartition(">")[2].strip() for message in story.said)):
        assert len(secret) > 10
        assert json.dumps(secret)[1:-1] not in told
    assert "\\u001b" not in told, "colours"
    assert not [entry for entry in entries if str(datetime.now(UTC).year) in entry["MESSAGE"]], "times"


@booted
async def test_a_life_under_systemd(tmp_path: Path) -> None:
    async with served(tmp_path) as story:
        lab = story.lab
        assert await lab.shows("inhouse", "ActiveState") == "active"
        assert "discord: reached" in await lab.shows("inhouse", "StatusText")
        await story.is_answered(await story.asks("the first canary sings"))

        before = await killed(story, "engine")
        await story.is_answered(await story.asks("the second canary sings"))
        after = await story.pids()
        assert (after["main"], after["engine"] == before["engine"]) == (before["main"], False)

        await killed(story, "main")
        await story.is_answered(await story.asks("the third canary sings"))
        assert await lab.shows("inhouse", "NRestarts") == "1"

        await reloads(story)
        await lab.does("systemctl", "stop", "inhouse")
        assert await lab.shows("inhouse", "Result") == "success"
        await is_discreet(story)
        assert not story.server.pings


@booted
async def test_what_no_restart_cures_is_not_restarted(tmp_path: Path) -> None:
    async with served(tmp_path) as story:
        await story.lab.does("systemctl", "stop", "inhouse")
        await story.lab.write("/etc/credstore/DISCORD_BOT_TOKEN", "another-token\n", "600")
        assert (await story.lab.tries("systemctl", "start", "inhouse"))[0] != 0
        names = ("ActiveState", "ExecMainStatus", "NRestarts")
        assert [await story.lab.shows("inhouse", name) for name in names] == ["failed", "78", "0"]
        assert (await story.is_logged("Discord refused the bot's token"))["PRIORITY"] == "3"
