"""Tests the test suite: user settings do not reach it, and it reports skipped tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.skips import NO_CHROMIUM, NO_POSTGRESQL, NO_SYSTEMD, NOT_ROOT, closing_lines

ROOT = Path(__file__).parents[2]

HOSTILE = {
    "INHOUSE_MODEL": "nothing-of-the-kind",
    "INHOUSE_HTTP": "not an address",
    "DISCORD_BOT_TOKEN": "a-token-of-a-person",
    "SLACK_APP_TOKEN": "xapp-of-a-person",
    "HF_HUB_OFFLINE": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "NOTIFY_SOCKET": "/nowhere",
    "COLUMNS": "20",
    "FORCE_COLOR": "1",
    "TERM": "dumb",
    "TZ": "Asia/Kathmandu",
}
"""Variables that may be set where the tests run."""


def run_tests(*words: str, **environment: str) -> list[str]:
    """The output lines of pytest in a separate process."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "CI"} | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout.splitlines()


def test_what_is_skipped_is_said_before_the_closing_line() -> None:
    lines = run_tests("tests/web/test_page.py", PATH="")
    assert re.fullmatch(r"(\d+) skipped in [\d.]+s", lines[-1]), lines
    count = lines[-1].split()[0]
    assert lines[-2].startswith(f"Skipped: {count} browser tests (no Chromium): "), lines


def test_in_ci_nothing_is_skipped_for_want_of_what_can_be_installed() -> None:
    lines = run_tests("tests/web/test_page.py", "-x", PATH="", CI="true")
    assert re.fullmatch(r"1 (error|failed) in [\d.]+s", lines[-1]), lines


def test_what_is_set_here_reaches_no_test() -> None:
    lines = run_tests(
        "tests/config/test_settings.py",
        "tests/models/test_pull.py::test_a_model_is_planned_fetched_and_found_again",
        "tests/adapters/discord/test_gateway.py::test_presence_tells_what_is_going_on",
        "tests/adapters/discord/test_gateway.py::test_the_proxy_is_the_setting_or_that_of_the_environment",
        "tests/observability/test_systemd_notify.py::test_a_service_tells_its_model_its_queue_and_its_platforms",
        "tests/types/test_commands.py",
        "tests/doctor/test_report.py",
        **HOSTILE,
    )
    assert re.fullmatch(r"\d+ passed in [\d.]+s( \(.+\))?", lines[-1]), "\n".join(lines)


@pytest.mark.parametrize(
    ("reasons", "apt", "lines"),
    [
        ([], True, []),
        (
            [NO_CHROMIUM] * 14 + [NO_SYSTEMD],
            True,
            [
                "Skipped: 14 browser tests (no Chromium): sudo tests/install_chromium.sh brings it",
                "Skipped: 1 systemd test (no systemd): sudo tests/install_systemd.sh brings it",
            ],
        ),
        ([NO_CHROMIUM], False, ["Skipped: 1 browser test (no Chromium): install Chromium or Google Chrome"]),
        (
            [NOT_ROOT] * 2,
            True,
            [
                "Skipped: 2 systemd tests (booting a systemd needs root): "
                "sudo .venv/bin/python -m pytest tests/system/test_systemd.py runs them"
            ],
        ),
        (
            [NO_POSTGRESQL] * 3,
            True,
            [
                "Skipped: 3 database tests (no PostgreSQL): sudo tests/install_postgresql.sh brings it; `make test` "
                "installs its driver"
            ],
        ),
        (["this system has no /dev/full"], True, ["Skipped: 1 test (this system has no /dev/full)"]),
    ],
)
def test_a_line_names_what_brings_it(reasons: list[str], apt: bool, lines: list[str]) -> None:
    assert closing_lines(reasons, apt) == lines
