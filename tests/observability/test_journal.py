"""Tests systemd's journal: detection, the priority of a line, and fields that the journal adds itself."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from bot.cli import main
from bot.observability.logs import leads_to_journal, prefixed, setup_logs

LEVELS = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.WARNING + 5: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}


def name(stream: TextIO) -> str:
    found = os.fstat(stream.fileno())
    return f"{found.st_dev}:{found.st_ino}"


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A stream that JOURNAL_STREAM names."""
    root = logging.getLogger()
    before = (root.handlers, root.level)
    with (tmp_path / "journal").open("w+", encoding="utf-8") as stream:
        monkeypatch.setenv("JOURNAL_STREAM", name(stream))
        yield stream
    root.handlers, root.level = before


def written(stream: TextIO) -> list[str]:
    stream.seek(0)
    return stream.read().splitlines()


@pytest.mark.parametrize(("level", "priority"), LEVELS.items())
def test_each_line_has_its_priority(level: int, priority: int) -> None:
    assert prefixed("one\ntwo", level) == f"<{priority}>one\n<{priority}>two"


def test_only_the_stream_that_is_named_leads_to_the_journal(
    journal: TextIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert leads_to_journal(journal)
    assert not leads_to_journal(io.StringIO())  # not a file
    with (tmp_path / "another").open("w") as another:
        assert not leads_to_journal(another)  # inherited, but redirected
    assert not leads_to_journal(another)  # closed
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not leads_to_journal(journal)


def test_the_journal_gets_priorities_and_neither_times_nor_colours(journal: TextIO) -> None:
    setup_logs("debug", "text", stream=journal)
    log = logging.getLogger("bot.generation.worker")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "it is said", extra={"tokens": 7})
    lines = written(journal)
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    for line in lines:
        assert "it is said" in line
        assert "tokens=7" in line
        assert line[3] == "["
        assert "\x1b" not in line


def test_every_line_of_a_traceback_has_its_priority(journal: TextIO) -> None:
    setup_logs("info", "text", stream=journal)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("bot").exception("failed")
    lines = written(journal)
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)


def test_json_in_the_journal_is_json_after_its_priority(journal: TextIO) -> None:
    setup_logs("info", "json", stream=journal)
    logging.getLogger("bot").warning("it is said", extra={"tokens": 7})
    (line,) = written(journal)
    assert line[:3] == "<4>"
    assert json.loads(line[3:]) == {"event": "it is said", "level": "warning", "logger": "bot", "tokens": 7}


def test_elsewhere_lines_have_a_time_and_no_priority(tmp_path: Path, journal: TextIO) -> None:
    with (tmp_path / "log").open("w+") as stream:
        setup_logs("info", "text", stream=stream)
        logging.getLogger("bot").warning("it is said")
        (line,) = written(stream)
    assert line[:2] == "20"


def test_why_a_command_failed_is_an_error_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(main.__code__.co_filename).parents[2]))
    with (tmp_path / "journal").open("w+") as stream:
        monkeypatch.setenv("JOURNAL_STREAM", name(stream))
        command = [sys.executable, "-m", "bot.cli", "run"]
        assert subprocess.run(command, stderr=stream, timeout=60).returncode == 78
        (line,) = written(stream)
    assert line.startswith("<3>inhouse: No platform is configured")
