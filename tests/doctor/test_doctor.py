"""Tests `inhouse doctor` as a whole: first use, mistakes, and no effect on a running service."""

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bot.cli import main
from bot.cli.doctor import sections
from bot.config.settings import Settings, load_settings
from bot.models.hardware import child_environment
from tests.support.builders.discord_service import answered_once, run_discord_service
from tests.support.fakes.connect_proxy import ConnectProxy
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.slack_server import FakeSlack

Lines = list[dict[str, str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def surroundings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "state").chmod(0o700)
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
    for name in ("DISCORD_BOT_TOKEN", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"):
        monkeypatch.delenv(name, raising=False)


async def doctor(*words: str) -> tuple[int, str, str]:
    """Runs a process; its exit status, output and stderr."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot.cli", "doctor", *words, stdin=pipe, stdout=pipe, stderr=pipe, env=child_environment()
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def found(out: str, check: str) -> list[dict[str, str]]:
    return [each for each in json.loads(out) if each["check"] == check]


async def test_a_newcomer_sees_nothing_wrong() -> None:
    status, out, err = await doctor()
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1].endswith(", nothing is wrong")
    assert all(line.startswith(("ok ", "warning ")) for line in lines[:-1])
    named = {line[9:].partition(":")[0] for line in lines[:-1]}
    assert {"settings", "Python", "torch", "GPU", "catalog", "state", "Discord", "Slack", "status page"} <= named


async def test_mistakes_in_the_settings_end_with_78_and_everything_else_is_still_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INHOUSE_DTYPE", "int3")
    monkeypatch.setenv("INHOUSE_HTTP", "0.0.0.0:8321")
    await asyncio.to_thread(Path(".env").write_text, "INHOUSE_MODLE=phi-4\nthis is nothing\n")
    status, out, err = await doctor("--json")
    assert (status, err) == (78, "")
    mistakes = found(out, "settings")
    assert [each["state"] for each in mistakes] == ["wrong"] * 4
    assert all(each["fix"] for each in mistakes)
    assert any("INHOUSE_MODEL?" in each["fix"] for each in mistakes)
    assert found(out, "torch")[0]["state"] == "ok"
    for check, name in {"status page": "INHOUSE_HTTP", "fit": "INHOUSE_DTYPE"}.items():
        (finding,) = found(out, check)
        assert (finding["state"], finding["found"]) == ("wrong", f"not checked, because {name} is invalid")


async def test_near_misses_of_names_are_warnings(home: Path) -> None:
    await asyncio.to_thread(Path(".env").write_text, "DISCORD_TOKEN=x\nMODEL=phi-4\nOTHER=1\n")
    status, out, _ = await doctor("--json")
    assert status == 0
    named = [(each["state"], each["fix"]) for each in found(out, "settings")]
    assert named == [("warning", "Did you mean DISCORD_BOT_TOKEN?"), ("warning", "Did you mean INHOUSE_MODEL?")]


def test_every_setting_that_a_check_depends_on_exists() -> None:
    checks = [check for section in sections(load_settings()) for check in section.checks]
    assert {name for check in checks for name in check.settings} <= Settings.model_fields.keys()


async def test_two_healthy_platforms_and_a_running_inhouse_have_nothing_wrong_and_notice_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = unused_port()
    async with (
        FakeSlack() as slack,
        FakeDiscord() as discord,
        ConnectProxy(discord.port) as proxy,
        run_discord_service(home, discord, http=f"127.0.0.1:{port}") as setup,
    ):
        tokens = (slack.bot_token, slack.app_token, discord.token)
        monkeypatch.setenv("SLACK_BOT_TOKEN", slack.bot_token)
        monkeypatch.setenv("SLACK_APP_TOKEN", slack.app_token)
        monkeypatch.setenv("INHOUSE_SLACK_API_URL", slack.api_url)
        monkeypatch.setenv("DISCORD_BOT_TOKEN", discord.token)
        monkeypatch.setenv("INHOUSE_DISCORD_PROXY", proxy.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(discord.write_ca(home / "ca.pem")))
        monkeypatch.setenv("INHOUSE_HTTP", f"127.0.0.1:{port}")
        status, out, err = await doctor("--json")
        await answered_once(setup, await setup.ana.says(setup.general, "hello", mention=True))
        assert not [token for token in tokens if token in out + err]
    wrong = [each for each in json.loads(out) if each["state"] == "wrong"]
    assert [each["check"] for each in wrong] == ["model smollm2"], "which is not here, and would be needed now"
    assert (status, err) == (1, "")
    assert found(out, "Discord token")[0]["state"] == found(out, "Slack bot token")[0]["state"] == "ok"
    assert found(out, "clock")[0]["found"] == "it agrees with Discord"
    assert found(out, "instance")[0]["found"] == "Inhouse is running and uses this directory"
    assert found(out, "database")[0]["found"].startswith("no damage")
    assert found(out, "readiness")[0]["found"] == "ready to answer"
    assert "the running Inhouse uses" in found(out, "fit of smollm2")[0]["found"]


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A directory with an unrelated `adapters` package."""
    (tmp_path / "foreign" / "adapters").mkdir(parents=True)
    (tmp_path / "foreign" / "adapters" / "__init__.py").touch()
    return tmp_path / "foreign"


def test_another_package_of_the_name_is_a_line_among_others(foreign: Path) -> None:
    paths = os.pathsep.join([str(foreign), str(ROOT)])
    script = "import sys; sys.argv[:] = ['inhouse', 'doctor', '--json']; from bot.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    (line,) = found(done.stdout, "packages")
    assert (line["state"], "a virtual environment of its own" in line["fix"]) == ("wrong", True)
    assert not found(done.stdout, "Discord")


def test_every_check_has_a_name_and_a_limit(home: Path) -> None:
    checks = [check for section in sections(load_settings()) for check in section.checks]
    assert len({check.name for check in checks}) == len(checks)
    assert all(0 < check.limit_s <= 90 for check in checks)


def test_it_does_not_take_what_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["inhouse", "doctor", "--yaml"])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 78
    assert "No such option" in capsys.readouterr().err
