"""Runs two Hypothesis state machines on a whole service: the guarantees hold under any faults in any order.

HYPOTHESIS_PROFILE=soak (`make machine`) runs a thousand random examples; the default runs a few fixed ones.
"""

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.support.postgresql import PostgresqlProcess
from tests.support.state_machine.adapter_machine import AdapterMachine
from tests.support.state_machine.faulty_server import FaultyServer
from tests.support.state_machine.rules import Machine

pytest_plugins = ["tests.support.fixtures.databases"]

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A killed service leaves coroutines that are never finished."""

MEMORY = Path("/dev/shm")
"""A place where syncing is free, if the system has one; power loss is simulated (see `faulty_disk`)."""


def lives(few: int, many: int, steps: int) -> settings:
    """Settings for some examples of some steps each. Failures are not shrunk, because that would take hours."""
    return settings(
        max_examples=many if SOAK else few,
        stateful_step_count=steps,
        derandomize=not SOAK,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )


def is_lived(begins: Callable[[], RuleBasedStateMachine], how: settings) -> None:
    """Runs a state machine."""
    run_state_machine_as_test(begins, settings=how)  # type: ignore[arg-type]  # accepts any factory


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory in memory, or a temporary one."""
    made = Path(tempfile.mkdtemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    yield made
    shutil.rmtree(made, ignore_errors=True)
    gc.collect()  # collects the killed services' coroutines here and not in a later test


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Turns off the log of a thousand runs."""
    caplog.set_level("CRITICAL")


@pytest.mark.fault(1)
@pytest.mark.fault(3)
@pytest.mark.fault(5)
@pytest.mark.fault(6)
@pytest.mark.fault(17)
@pytest.mark.fault(19)
@pytest.mark.fault(21)
@pytest.mark.fault(22)
@pytest.mark.fault(23)
@pytest.mark.fault(27)
@pytest.mark.fault(28)
@pytest.mark.fault(32)
@pytest.mark.fault(34)
@pytest.mark.fault(36)
@pytest.mark.fault(37)
@pytest.mark.fault(38)
@pytest.mark.fault(41)
@pytest.mark.fault(42)
@pytest.mark.timeout(14_400 if SOAK else 600)
def test_whatever_happens_every_question_gets_one_answer_and_nothing_crosses(root: Path) -> None:
    """25 runs of 40 steps are the 1,000 steps of fault 41."""
    is_lived(lambda: Machine(Path(tempfile.mkdtemp(dir=root))), lives(25, 1000, 40))


@pytest.mark.fault(37)
@pytest.mark.timeout(14_400 if SOAK else 600)
def test_so_it_is_on_a_server_whose_connections_break_at_any_time(root: Path, postgresql: PostgresqlProcess) -> None:
    servers: list[FaultyServer] = []

    def begin() -> Machine:
        servers.append(FaultyServer(postgresql))
        return Machine(Path(tempfile.mkdtemp(dir=root)), servers[-1])

    is_lived(begin, lives(4, 500, 40))
    assert any(server.struck for server in servers)


@pytest.mark.fault(39)
@pytest.mark.fault(41)
@pytest.mark.timeout(14_400 if SOAK else 600)
@pytest.mark.parametrize("platform", ["discord", "slack"])
def test_so_it_is_through_the_real_adapters(root: Path, platform: str) -> None:
    is_lived(lambda: AdapterMachine(Path(tempfile.mkdtemp(dir=root)), platform), lives(2, 50, 8))
