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
JOURNAL = f"`journalctl -u {UNIT} -n 30` says why"
FAILED = {
    "exit-code": "it ended with status {status}",
    "signal": "it was killed by signal {status}",
    "oom-kill": "the machine ran out of memory",
    "watchdog": "it did not answer its watchdog",
    "timeout": "it took too long to start or to stop",
}


async def service() -> Findings:
    """Check that the unit is installed and running."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        yield ok("service", "there is no systemd here")
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
        yield ok("service", "systemd does not run here")
    else:
        for finding in unit_findings(shown):
            yield finding


def unit_findings(shown: Mapping[str, str]) -> Iterator[Finding]:
    """Translate the unit's properties into findings."""
    active, status = shown.get("ActiveState", ""), shown.get("ExecMainStatus", "")
    if shown["LoadState"] == "not-found":
        yield ok("service", f"{UNIT} is not installed")
    elif shown["LoadState"] != "loaded":
        fix = f"`systemctl status {UNIT}` and `systemd-analyze verify {UNIT}` say where."
        yield wrong("service", f"systemd cannot use {UNIT} ({shown['LoadState']})", fix)
    elif active == "failed":
        yield wrong("service", f"{UNIT} failed: {_why(shown.get('Result', ''), status)}", _fix(status))
    elif shown.get("SubState") == "auto-restart":
        found = f"{UNIT} ended ({_why(shown.get('Result', ''), status)}) and is about to be started again"
        yield wrong("service", found, f"{JOURNAL}.")
    elif active in ("active", "reloading"):
        yield ok("service", f"{UNIT} is running{_status_text(shown)}")
    elif active in ("activating", "deactivating"):
        yield warning("service", f"{UNIT} is {active}{_status_text(shown)}", f"If that lasts, {JOURNAL}.")
    else:
        yield warning("service", f"{UNIT} is installed and not started", f"`sudo systemctl enable --now {UNIT}`")
    if shown.get("NeedDaemonReload") == "yes":
        yield warning("unit file", "it was changed after systemd read it", "`sudo systemctl daemon-reload`")
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
    yield ok("its settings", found, f"`cd {place} && {line}` looks at them, except for tokens that systemd keeps.")


def credentials() -> Iterator[Finding]:
    """Check that the credentials directory can be read; only set in processes that systemd starts."""
    named = os.environ.get("CREDENTIALS_DIRECTORY")
    if not named:
        return
    directory = Path(named)
    if not directory.is_dir():
        fix = "Take CREDENTIALS_DIRECTORY out of the environment; systemd sets it where there are credentials."
        yield warning("credentials", f"there is no directory {directory}", fix)
        return
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        fix = "Check its owner, or run this as the user of the service."
        yield wrong("credentials", f"{directory} cannot be read ({reason(error)})", fix)
        return
    yield ok("credentials", f"{', '.join(names) or 'none'} in {directory}")


def _why(result: str, status: str) -> str:
    return FAILED.get(result, result or "it does not say why").format(status=status)


def _fix(status: str) -> str:
    if status == str(EX_CONFIG):
        return f"That is a mistake in the configuration: {JOURNAL}; correct it, then `sudo systemctl restart {UNIT}`."
    return f"{JOURNAL}; `sudo systemctl restart {UNIT}` starts it again."


def _status_text(shown: Mapping[str, str]) -> str:
    return f": {shown['StatusText']}" if shown.get("StatusText") else ""
