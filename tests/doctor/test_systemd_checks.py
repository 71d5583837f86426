"""Tests `inhouse doctor` for the systemd unit, with a fake `systemctl`, and for credentials."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from bot.doctor import systemd_checks
from bot.types.findings import Finding, State
from tests.support.builders.findings import about, complete, gathered, states

RUNNING = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success"}
FAILED = RUNNING | {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code", "ExecMainStatus": "1"}


async def shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, properties: Mapping[str, str], status: int = 0
) -> list[Finding]:
    """The findings when systemctl shows these properties."""
    script = tmp_path / "systemctl"
    lines = "\n".join(f"{name}={value}" for name, value in properties.items())
    asks = '[ "$1 $2" = "show inhouse.service" ] || exit 64'
    script.write_text(f"#!/bin/sh\n{asks}\ncat <<'END'\n{lines}\nEND\nexit {status}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return await gathered(systemd_checks.service())


@pytest.mark.parametrize(
    ("properties", "state", "found", "fix"),
    [
        (RUNNING, State.OK, "is running", ""),
        (RUNNING | {"StatusText": "Phi-4 loaded, 2 waiting"}, State.OK, "running: Phi-4 loaded, 2 waiting", ""),
        ({"LoadState": "not-found"}, State.OK, "is not installed", ""),
        ({"LoadState": "bad-setting"}, State.WRONG, "bad-setting", "systemd-analyze verify"),
        ({"LoadState": "masked"}, State.WRONG, "masked", "systemctl status"),
        (FAILED, State.WRONG, "it ended with status 1", "journalctl -u inhouse.service"),
        (FAILED | {"ExecMainStatus": "78"}, State.WRONG, "status 78", "a mistake in the configuration"),
        (FAILED | {"Result": "oom-kill"}, State.WRONG, "ran out of memory", "journalctl"),
        (FAILED | {"Result": "watchdog"}, State.WRONG, "stopped responding to its watchdog", "journalctl"),
        (
            FAILED | {"ActiveState": "activating", "SubState": "auto-restart"},
            State.WRONG,
            "will be restarted",
            "journalctl",
        ),
        (RUNNING | {"ActiveState": "activating", "SubState": "start"}, State.WARNING, "is activating", "If that lasts"),
        (RUNNING | {"ActiveState": "inactive", "SubState": "dead"}, State.WARNING, "not started", "enable --now"),
    ],
)
async def test_the_unit_is_reported_as_systemd_sees_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, properties: dict[str, str], state: State, found: str, fix: str
) -> None:
    findings = await shown(monkeypatch, tmp_path, properties)
    service = about(findings, "service")
    assert (service.state, found in service.found, fix in service.fix) == (state, True, True), service
    assert complete(findings)


async def test_a_unit_that_was_changed_is_to_be_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    findings = await shown(monkeypatch, tmp_path, RUNNING | {"NeedDaemonReload": "yes"})
    assert about(findings, "unit file").fix == "`sudo systemctl daemon-reload`"


async def test_a_person_is_told_how_to_look_at_the_services_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = RUNNING | {
        "User": "inhouse",
        "WorkingDirectory": "/etc/inhouse",
        "Environment": "INHOUSE_STATE_DIR=/var/lib/inhouse",
        "ExecStart": "{ path=/opt/inhouse/bin/inhouse ; argv[]=/opt/inhouse/bin/inhouse run ; ignore_errors=no }",
    }
    found = about(await shown(monkeypatch, tmp_path, installed), "its settings")
    command = "sudo -Hu inhouse env INHOUSE_STATE_DIR=/var/lib/inhouse /opt/inhouse/bin/inhouse doctor"
    assert (found.state, f"`cd /etc/inhouse && {command}`" in found.fix) == (State.OK, True)
    here = await shown(monkeypatch, tmp_path, installed | {"WorkingDirectory": str(Path.cwd())})
    assert states(here) == {"service": State.OK}


async def test_a_machine_without_systemd_is_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert states(await shown(monkeypatch, tmp_path, {}, status=1)) == {"service": State.OK}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert states(await gathered(systemd_checks.service())) == {"service": State.OK}


def test_credentials_are_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert list(systemd_checks.credentials()) == []
    (tmp_path / "HF_TOKEN").write_text("hf_secretsecretsecret")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (found,) = systemd_checks.credentials()
    assert (found.state, found.found) == (State.OK, f"HF_TOKEN in {tmp_path}")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "gone"))
    assert states(systemd_checks.credentials()) == {"credentials": State.WARNING}


def test_credentials_that_cannot_be_looked_into_are_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def forbidden(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(Path, "iterdir", forbidden)  # root may read anywhere
    (found,) = systemd_checks.credentials()
    assert (found.state, "permission denied" in found.found) == (State.WRONG, True)
