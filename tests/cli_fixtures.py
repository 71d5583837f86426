"""Runs `inhouse` in the test's own process. Test modules name this in `pytest_plugins`."""

import io
import sys
from pathlib import Path

import pytest

from bot.cli import main
from tests.cli_harness import Inhouse


@pytest.fixture
def inhouse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path) -> Inhouse:
    """Runs a command in this process: its exit status, stdout, stderr."""

    def run(*words: str, stdin: io.StringIO | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inhouse", *words])
        monkeypatch.setattr(sys, "stdin", stdin or io.StringIO())
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return run
