"""Runs the state machine on a service with its database on a PostgreSQL server, whose connections break at any time."""

import tempfile
from pathlib import Path

import pytest

from tests.crash.test_state_machine import SOAK, is_lived, lives
from tests.support.postgresql import PostgresqlProcess
from tests.support.state_machine.faulty_server import FaultyServer
from tests.support.state_machine.rules import Machine

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A killed service leaves coroutines that are never finished."""


@pytest.mark.fault(37)
@pytest.mark.timeout(14_400 if SOAK else 600)
def test_whatever_happens_every_question_gets_one_answer_and_nothing_crosses(
    tmp_path: Path, postgresql: PostgresqlProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    servers: list[FaultyServer] = []

    def begin() -> Machine:
        servers.append(FaultyServer(postgresql))
        return Machine(Path(tempfile.mkdtemp(dir=tmp_path)), servers[-1])

    is_lived(begin, lives(4, 500, 40))
    assert any(server.struck for server in servers)
