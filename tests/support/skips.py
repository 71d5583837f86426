"""Reasons for skipped tests, with the command that enables each."""

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

NO_CHROMIUM = "no Chromium"
NO_SYSTEMD = "no systemd"
NO_POSTGRESQL = "no PostgreSQL"
NO_PGBOUNCER = "no PgBouncer"
NOT_ROOT = "booting a systemd needs root"


@dataclass(frozen=True, slots=True)
class Missing:
    """A missing requirement of a kind of test; `remedy` ends the line that reports it."""

    kind: str
    remedy: str


def closing_lines(reasons: Iterable[str], apt: bool = shutil.which("apt-get") is not None) -> list[str]:
    """One line per reason: how many tests it skipped, and the remedy. `apt`: the install scripts work here."""
    return [_line(reason, count, apt) for reason, count in Counter(reasons).items()]


def _line(reason: str, count: int, apt: bool) -> str:
    missing = _missing(apt).get(reason, Missing("", ""))
    kind = f"{missing.kind} test" if missing.kind else "test"
    counted = f"{count} {kind}" if count == 1 else f"{count} {kind}s"
    remedy = f": {missing.remedy}" if missing.remedy else ""
    return f"Skipped: {counted} ({reason}){remedy}"


def _missing(apt: bool) -> dict[str, Missing]:
    browser = "sudo tests/install_chromium.sh brings it" if apt else "install Chromium or Google Chrome"
    systemd = "sudo tests/install_systemd.sh brings it" if apt else "install systemd, on Linux"
    postgresql = "sudo tests/install_postgresql.sh brings it" if apt else "install PostgreSQL"
    pooler = "sudo tests/install_postgresql.sh brings it" if apt else "install PgBouncer"
    return {
        NO_PGBOUNCER: Missing("database", pooler),
        NO_POSTGRESQL: Missing("database", f"{postgresql}; `make test` installs its driver"),
        NO_CHROMIUM: Missing("browser", browser),
        NO_SYSTEMD: Missing("systemd", systemd),
        NOT_ROOT: Missing("systemd", "sudo .venv/bin/python -m pytest tests/system/test_systemd.py runs them"),
    }
