"""Tests the shipped unit: valid and hardened; installed, faulted, upgraded and removed under a real systemd."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot.observability.file_descriptors import ENOUGH
from tests.support.skips import NO_SYSTEMD
from tests.support.systemd.booted_systemd import (
    PYTHON,
    ROOT,
    SURROUNDINGS,
    BootedSystemd,
    boot_systemd,
    why_not,
)
from tests.support.systemd.installed_service import DROPINS, SETTINGS, InstalledService, install_service
from tests.support.systemd.memory_pressure import memory_of

UNIT = ROOT / "systemd" / "inhouse.service"
MOST_EXPOSED = 1.5
TOKEN_FILE = "/etc/credstore/DISCORD_BOT_TOKEN"


def needs(reason: str, refused: bool = False) -> None:
    """Skips for this reason, if there is one; in CI only if namespaces are refused, because the rest can be
    installed."""
    if reason and "CI" in os.environ and not refused:
        pytest.fail(f"{reason}, and CI must have it")
    if reason:
        pytest.skip(reason)


def analyse(*words: str) -> subprocess.CompletedProcess[str]:
    needs("" if shutil.which("systemd-analyze") else NO_SYSTEMD)
    return subprocess.run(["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, timeout=60)


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name  # a copy that starts an existing program
    here.write_text(UNIT.read_text("utf-8").replace("/opt/inhouse/bin/inhouse", "/bin/true"))
    done = analyse("verify", str(here))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_is_hardened() -> None:
    done = analyse("security", "--offline=yes", str(UNIT))
    found = re.search(r"exposure level for inhouse.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


@pytest.mark.fault(51)
def test_the_unit_allows_as_many_descriptors_as_the_service_asks_for() -> None:
    assert f"\nLimitNOFILE={ENOUGH}\n" in UNIT.read_text("utf-8")


async def is_installed(installed: InstalledService, tmp_path: Path) -> None:
    """The README's first half: it serves, with a downloaded model and a token that only it can read."""
    systemd = installed.systemd
    assert "making a virtual environment" in await installed.follows("Install")
    ours = await systemd.does(
        "stat", "-c", "%U:%G %a", "/etc/inhouse/.env", "/etc/credstore", "/usr/local/sbin/inhouse"
    )
    assert ours.splitlines() == ["root:inhouse 640", "root:root 700", "root:root 755"]
    await installed.follows("Tokens", installed.server.token + "\n")
    await installed.settle(installed.server.write_ca(tmp_path / "ca.pem").read_text())
    await installed.follows("Model and start")
    assert await systemd.shows("inhouse", "ActiveState") == "active"
    assert await systemd.shows("inhouse", "LimitNOFILESoft") == str(ENOUGH)
    assert await systemd.shows("inhouse", "UnitFileState") == "enabled"
    assert "discord: connected" in await systemd.shows("inhouse", "StatusText")
    assert (
        await systemd.does("stat", "-c", "%U %a", "/var/lib/inhouse", "/var/cache/inhouse")
        == "inhouse 700\ninhouse 750"
    )
    await installed.talks("the first canary sings")
    assert "active (running)" in await installed.follows("Looking after it")


async def is_hurt(installed: InstalledService) -> None:
    """A dead or OOM-killed engine costs only the engine, and the questions are answered."""
    async with memory_of(installed) as memory:
        before = await installed.signals("KILL", "engine")
        await installed.talks("the second canary sings")
        assert (await installed.pids())["main"] == before["main"]
        before = await installed.pids()
        await memory.runs_out(before["engine"])
        assert (await installed.systemd.tries("kill", "-0", str(before["engine"])))[0], "the engine's process lives"
        await installed.talks("the third canary sings")
        assert (await installed.pids())["main"] == before["main"]
    assert await installed.systemd.shows("inhouse", "NRestarts") == "0"


async def is_replaced(installed: InstalledService) -> None:
    """A dead or hanging main process costs a restart, and the questions are answered."""
    await installed.systemd.write(f"{DROPINS}/watchdog.conf", "[Service]\nWatchdogSec=10\n")  # for the next one
    await installed.systemd.does("systemctl", "daemon-reload")
    await installed.signals("KILL", "main")
    await installed.talks("the fourth canary sings")
    assert await installed.systemd.shows("inhouse", "NRestarts") == "1"
    await installed.signals("STOP", "main")
    await installed.talks("the fifth canary sings")
    assert await installed.systemd.shows("inhouse", "NRestarts") == "2"


async def reloads(installed: InstalledService) -> None:
    """Settings are reloaded: wrong ones are refused, valid ones apply."""
    for line, logged, priority in (
        ("INHOUSE_TOP_P=9", "The configuration was not reloaded", "3"),
        ("INHOUSE_TOP_P=0.5", "The configuration was reloaded", "6"),
        ("INHOUSE_DEVICE=auto", "INHOUSE_DEVICE: changed", "4"),
    ):
        before = len(await installed.journal())
        await installed.add_settings(line)
        await installed.systemd.does("systemctl", "reload", "inhouse")
        assert (await installed.is_logged(logged, before))["PRIORITY"] == priority
        await installed.becomes("active")


async def is_backed_up(installed: InstalledService) -> None:
    """A backup that contains the conversation, made while the service runs."""
    systemd, main = installed.systemd, await installed.systemd.shows("inhouse", "MainPID")
    await installed.follows("Backup")
    copy = "/var/lib/inhouse/backup.db"
    assert await systemd.does("stat", "-c", "%U %a", copy) == "inhouse 600"
    look = f"import sqlite3; print(sqlite3.connect('{copy}').execute('select text from turns').fetchall())"
    assert "the first canary sings" in await systemd.does("/opt/inhouse/bin/python", "-c", look)
    assert await systemd.shows("inhouse", "MainPID") == main


async def keeps_tokens_otherwise(installed: InstalledService) -> None:
    """The README's other two ways to set a token."""
    systemd, token = installed.systemd, installed.server.token
    await installed.follows("Tokens, encrypted")
    assert (await systemd.tries("test", "-e", TOKEN_FILE))[0]
    assert token not in await systemd.does("cat", "/etc/credstore.encrypted/DISCORD_BOT_TOKEN")
    assert await systemd.shows("inhouse", "ActiveState") == "active"
    await systemd.does("rm", f"{DROPINS}/sealed.conf", "/etc/credstore.encrypted/DISCORD_BOT_TOKEN")
    await installed.follows("Tokens, in an EnvironmentFile", f"DISCORD_BOT_TOKEN={token}\n")
    assert await systemd.does("stat", "-c", "%U:%G %a", "/etc/inhouse/tokens") == "root:root 600"
    assert "discord: connected" in await systemd.shows("inhouse", "StatusText")


async def is_upgraded(installed: InstalledService) -> None:
    """Installs another version over this one: settings stay, the service continues with the new code."""
    systemd = installed.systemd
    settings, main = await systemd.does("cat", SETTINGS), (await systemd.shows("inhouse", "MainPID"))
    told = await installed.follows("Upgrade")
    assert "restarting the service" in told
    assert "making a virtual environment" not in told
    assert await systemd.does("cat", SETTINGS) == settings
    assert await systemd.shows("inhouse", "MainPID") != main
    await systemd.follows("/opt/inhouse/bin/python -c 'import bot; assert bot.UPGRADED'", "/")
    await installed.talks("the sixth canary sings")


async def is_wrong(installed: InstalledService) -> None:
    """A configuration error is not restarted."""
    await installed.systemd.does("systemctl", "stop", "inhouse")
    assert await installed.systemd.shows("inhouse", "Result") == "success"
    await installed.systemd.write("/etc/inhouse/tokens", "DISCORD_BOT_TOKEN=another-token\n", "600")
    assert (await installed.systemd.tries("systemctl", "start", "inhouse"))[0] != 0
    names = ("ActiveState", "ExecMainStatus", "NRestarts")
    assert [await installed.systemd.shows("inhouse", name) for name in names] == ["failed", "78", "0"]
    assert (await installed.is_logged("Discord refused the bot's token"))["PRIORITY"] == "3"


async def is_discreet(installed: InstalledService) -> None:
    """The journal has the events with their priorities, and no text of users."""
    entries = await installed.journal()
    told = json.dumps(entries)
    assert {entry["PRIORITY"] for entry in entries if entry["SYSLOG_IDENTIFIER"] == "inhouse"} >= {"3", "4", "6"}
    said = [re.sub(r"^<@\d+> ", "", message.content).strip() for message in installed.said]
    for secret in (installed.server.token, *said):
        assert len(secret) > 10
        assert json.dumps(secret)[1:-1] not in told
    assert "\\u001b" not in told, "colours"
    assert not [entry for entry in entries if str(datetime.now(UTC).year) in entry["MESSAGE"]], "times"


async def is_gone(installed: InstalledService) -> None:
    """Nothing is left on the machine."""
    await installed.follows("Uninstall")
    places = "/etc /opt/inhouse /usr/local/sbin /var/lib /var/cache"
    left = await installed.systemd.does(
        "sh", "-c", f"find {places} -path '*inhouse*' -o -name '*_TOKEN' 2>/dev/null || true"
    )
    assert left == ""
    assert (await installed.systemd.tries("id", "inhouse"))[0] != 0


PLACES = {"/opt/secret": "700", "/home/ann": "755", "/opt/other": "755"}
"""Directories that each have a Python, and their modes."""


async def installs(systemd: BootedSystemd, python: str, **more: str) -> tuple[int, str]:
    """Runs the script with this PYTHON and `more` in its environment; its exit status and output."""
    words = [f"{name}={value}" for name, value in (SURROUNDINGS | {"PYTHON": python} | more).items()]
    return await systemd.tries("env", "-i", *words, "/opt/source/systemd/install.sh")


def make_wheel(folder: Path) -> Path:
    """Writes a package named vllm with a command of that name, in place of the real one of several GB."""
    folder.mkdir()
    about = "vllm-0.0.1.dist-info"
    files = {
        "vllm.py": "def main():\n    print('this is vllm')\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.0.1\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": "[console_scripts]\nvllm = vllm:main\n",
    }
    with zipfile.ZipFile(folder / "vllm-0.0.1-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in (*files, f"{about}/RECORD")))
    return folder


@pytest.mark.timeout(600)
async def test_the_python_must_be_one_that_the_services_user_can_run(tmp_path: Path) -> None:
    await asyncio.to_thread(needs, why_not(), "not allowed" in why_not())
    async with boot_systemd(tmp_path / "systemd", {make_wheel(tmp_path / "wheels"): "wheels"}) as systemd:
        await systemd.does("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/home")
        for place, mode in PLACES.items():
            await systemd.does("install", "-d", "-m", mode, place)
            await systemd.does("ln", "-s", "/opt/python", f"{place}/python")
        secret, home, other = (f"{place}/python/{PYTHON.removeprefix('/opt/python/')}" for place in PLACES)
        status, told = await installs(systemd, secret)
        assert status == 78, told
        assert f"'inhouse' cannot run '{secret}'; choose another one: sudo PYTHON=" in told
        status, told = await installs(systemd, home)
        assert status == 78, told
        assert f"'{home}' is in a home directory" in told
        assert (await systemd.tries("test", "-e", "/opt/inhouse"))[0], "it made something"
        status, told = await installs(systemd, other)
        assert status == 0, told
        assert f"making a virtual environment in /opt/inhouse with {other}" in told
        assert await installs(systemd, other, INHOUSE_EXTRAS="vLLM") == (
            78,
            "install: INHOUSE_EXTRAS holds names separated by commas, such as vllm,quantize, not 'vLLM'",
        )
        status, told = await installs(systemd, other, INHOUSE_EXTRAS="llama-cpp,vllm", PIP_FIND_LINKS="/opt/wheels")
        assert (status, "making a virtual environment" in told) == (0, False), told
        assert "installing vLLM into /opt/inhouse-vllm" in told
        as_user = ("runuser", "-u", "inhouse", "--", "env", "-C", "/", "LD_LIBRARY_PATH=/opt/python/lib")
        assert await systemd.does(*as_user, "/opt/inhouse-vllm/bin/vllm") == "this is vllm"
        await systemd.does("chmod", "700", "/opt/other")
        status, told = await installs(systemd, other)
        assert (status, f"'inhouse' cannot run '{other}'" in told) == (78, True), told
        status, told = await installs(systemd, PYTHON)
        assert (status, f"with {PYTHON}" in told) == (0, True), told
        status, told = await installs(systemd, "")
        assert (status, "making a virtual environment" in told) == (0, False), told


@pytest.mark.timeout(900)
async def test_the_readmes_steps_install_run_and_remove_the_service(tmp_path: Path) -> None:
    await asyncio.to_thread(needs, why_not(), "not allowed" in why_not())
    async with install_service(tmp_path) as installed:
        await is_installed(installed, tmp_path)
        await is_hurt(installed)
        await is_replaced(installed)
        await reloads(installed)
        await is_backed_up(installed)
        await keeps_tokens_otherwise(installed)
        await is_upgraded(installed)
        await is_wrong(installed)
        await is_discreet(installed)
        await is_gone(installed)
        installed.is_told()
        assert not installed.server.pings
