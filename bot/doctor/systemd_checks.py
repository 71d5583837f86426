"""Check the systemd unit (`systemctl show`) and the credentials in $CREDENTIALS_DIRECTORY.

A machine without systemd or without the unit is ok.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from bot.doctor.check_runner import Findings
from bot.types.errors import EX_CONFIG
from bot.types.findings import Finding, ok, reason, warning, wrong

UNIT = "inhouse.service"
PROPERTIES = (
    *("LoadState", "ActiveState", "SubState", "Result", "ExecMainStatus", "StatusText", "NeedDaemonReload"),
    *("User", "WorkingDirectory", "Environment", "ExecStart"),
)
JOURNAL = f"`journalctl -u {UNIT} -n 30` shows why"
FAILED = {
    "exit-code": "it ended with status {status}",
    "signal": "it was killed by signal {status}",
    "oom-kill": "the machine ran out of memory",
    "watchdog": "it stopped responding to its watchdog",
    "timeout": "it took too long to start or to stop",
}


async def service() -> Findings:
    """Check that the unit is installed and running."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        yield ok("service", "systemd is not installed")
        return
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        systemctl, "show", UNIT, f"--property={','.join(PROPERTIES)}", stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = [line.partition("=") for line in output.decode(errors="replace").splitlines()]
    shown = {name: value for name, _, value in lines}
    if process.returncode or "LoadState" not in shown:
        yield ok("service", "systemd is not running")
    else:
        for finding in unit_findings(shown):
            yield finding


def unit_findings(shown: Mapping[str, str]) -> Iterator[Finding]:
    """Translate the unit's properties into findings."""
    active, status = shown.get("ActiveState", ""), shown.get("ExecMainStatus", "")
    if shown["LoadState"] == "not-found":
        yield ok("service", f"{UNIT} is not installed")
    elif shown["LoadState"] != "loaded":
        fix = f"`systemctl status {UNIT}` and `systemd-analyze verify {UNIT}` show the error."
        yield wrong("service", f"systemd cannot use {UNIT} ({shown['LoadState']})", fix)
    elif active == "failed":
        yield wrong("service", f"{UNIT} failed: {_why(shown.get('Result', ''), status)}", _fix(status))
    elif shown.get("SubState") == "auto-restart":
        found = f"{UNIT} ended ({_why(shown.get('Result', ''), status)}) and will be restarted"
        yield wrong("service", found, f"{JOURNAL}.")
    elif active in ("active", "reloading"):
        yield ok("service", f"{UNIT} is running{_status_text(shown)}")
    elif active in ("activating", "deactivating"):
        yield warning("service", f"{UNIT} is {active}{_status_text(shown)}", f"If that lasts, {JOURNAL}.")
    else:
        yield warning("service", f"{UNIT} is installed but not started", f"`sudo systemctl enable --now {UNIT}`")
    if shown.get("NeedDaemonReload") == "yes":
        yield warning("unit file", "it changed after systemd loaded it", "`sudo systemctl daemon-reload`")
    yield from _other_settings(shown)


def _other_settings(shown: Mapping[str, str]) -> Iterator[Finding]:
    """Report that this shell uses other settings than the service, which has another working directory."""
    place = shown.get("WorkingDirectory", "").lstrip("!-")
    if not place or "CREDENTIALS_DIRECTORY" in os.environ or Path(place) == Path.cwd():
        return
    command = re.search(r"path=(\S+)", shown.get("ExecStart", ""))
    words = ("env", shown["Environment"]) if shown.get("Environment") else ()
    user = shown.get("User") or "root"
    line = " ".join(("sudo", "-Hu", user, *words, command[1] if command else "inhouse", "doctor"))
    found = f"these results are for the settings in {Path.cwd()}; those of the service are in {place}"
    yield ok("its settings", found, f"`cd {place} && {line}` checks those, except tokens in systemd's credentials.")


def credentials() -> Iterator[Finding]:
    """Check that the credentials directory can be read; only set in processes that systemd starts."""
    named = os.environ.get("CREDENTIALS_DIRECTORY")
    if not named:
        return
    directory = Path(named)
    if not directory.is_dir():
        fix = "Unset CREDENTIALS_DIRECTORY; systemd sets it for services that have credentials."
        yield warning("credentials", f"CREDENTIALS_DIRECTORY is {directory}, which is not a directory", fix)
        return
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        fix = "Check its owner, or run this as the service's user."
        yield wrong("credentials", f"{directory} cannot be read ({reason(error)})", fix)
        return
    yield ok("credentials", f"{', '.join(names) or 'none'} in {directory}")


def _why(result: str, status: str) -> str:
    return FAILED.get(result, result or "no reason given").format(status=status)


def _fix(status: str) -> str:
    if status == str(EX_CONFIG):
        return f"That is a mistake in the configuration: {JOURNAL}; correct it, then `sudo systemctl restart {UNIT}`."
    return f"{JOURNAL}; `sudo systemctl restart {UNIT}` starts it again."


def _status_text(shown: Mapping[str, str]) -> str:
    return f": {shown['StatusText']}" if shown.get("StatusText") else ""
