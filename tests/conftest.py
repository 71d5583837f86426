"""Isolates every test: a clean environment, an empty working directory, no network, a short Hypothesis profile.

After a run, lists the skipped tests with the command that enables each.
"""

import gc
import ipaddress
import os
import socket
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from bot.config.settings import load_settings
from bot.models.catalog import Catalog
from tests.support.skips import closing_lines

gc.disable()  # until all tests are collected: collections would be a third of that time
gc.set_threshold(20_000)

hypothesis_settings.register_profile(
    "quick",
    deadline=None,  # slow machines must not fail a test
    max_examples=50,
    derandomize="CI" in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
hypothesis_settings.register_profile(
    "soak", hypothesis_settings.get_profile("quick"), max_examples=2000, derandomize=False
)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

FOREIGN = (
    *("INHOUSE_", "DISCORD_", "SLACK_", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_", "JOURNAL_STREAM"),
    *("HF_", "HUGGING_FACE_", "TRANSFORMERS_", "SSL_CERT_", "PYTHONWARNINGS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "WS_PROXY", "WSS_PROXY"),
    *("COLUMNS", "LINES", "TERMINAL_WIDTH", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "COLORTERM", "PY_COLORS", "TTY_"),
)
"""Prefixes (upper case) of environment variables that would change a test's result."""

WHERE_THE_MODEL_IS = ("INHOUSE_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE")
"""`make test` downloads the model to the directories that these name."""


def _foreign() -> list[str]:
    return [name for name in os.environ if name.upper().startswith(FOREIGN) and name not in WHERE_THE_MODEL_IS]


for _name in _foreign():  # before a test module imports a library that reads the environment at import
    del os.environ[_name]
os.environ["TERM"] = "xterm-256color"  # other values turn off colours and redrawing
if _workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Before torch is imported, also for the engines' processes: threads of several workers that wait for each other
    # on the same processors make it ten times slower.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))


SLOWEST = (
    "tests/system/test_systemd.py",
    "tests/security/test_linear_time.py",
    "tests/end_to_end/test_console_process.py",
    "tests/engine/server/test_engine_failures.py",
    "tests/end_to_end/test_init_process.py",
    "tests/engine/contract/test_contract.py",
    "tests/engine/text/test_poison_templates.py",
    "tests/engine/server/test_heartbeat.py",
    "tests/engine/client/test_process.py",
    "tests/models/test_packing.py",
    "tests/crash/test_kills.py",
    "tests/crash/test_state_machine.py",
)
"""The files that take longest start first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files; pytest-xdist keeps this order with --no-loadscope-reorder."""
    order = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


def pytest_collection_finish() -> None:
    """Collects garbage again, without the objects of all imported modules."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    """The directory of SmolLM2-135M-Instruct in the normal cache; downloads it if missing."""
    from bot.models.pull import pull

    settings = load_settings()
    return pull(Catalog.of(settings).get("smollm2"), settings)


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Removes this machine's settings (environment and .env file) from every test."""
    for name in _foreign():  # set by an earlier test
        monkeypatch.delenv(name)
    monkeypatch.setenv("INHOUSE_HTTP", "off")  # the default port may be in use; tests of the page set their own
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Prints the skipped tests, with the command that enables each, above pytest's last line."""
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in skipped]
    for line in closing_lines(reasons):
        terminalreporter.write_line(line)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes a directory whose `state` and `cache` are INHOUSE_STATE_DIR and INHOUSE_CACHE_DIR."""
    for name in ("state", "cache"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"INHOUSE_{name.upper()}_DIR", str(tmp_path / name))
    return tmp_path


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejects connections from this process to anything but loopback."""
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, _only_loopback(getattr(socket.socket, name)))


def _only_loopback(call: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(str(address[0])):
            raise AssertionError(f"a test wants to connect to {address[0]}; tests run offline")
        return call(self, address)

    return guarded


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
