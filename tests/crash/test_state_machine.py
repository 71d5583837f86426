"""The promise, whatever happens and in whatever order: two state machines of Hypothesis' over a whole service.

HYPOTHESIS_PROFILE=soak (`make machine`) makes it a thousand random lives; without it they are few, and the same ones
every time.
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

from tests.support.state_machine.adapter_machine import WireMachine
from tests.support.state_machine.rules import Machine

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A killed service leaves coroutines behind that nobody ends."""

MEMORY = Path("/dev/shm")
"""Where files cost nothing to sync, if there is such a place: what a loss of power leaves is computed, see `disk`."""


def lives(few: int, many: int, steps: int) -> settings:
    """So many lives of so many steps each. What fails is told as it happened: to shorten it would take hours."""
    return settings(
        max_examples=many if SOAK else few,
        stateful_step_count=steps,
        derandomize=not SOAK,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )


def is_lived(begins: Callable[[], RuleBasedStateMachine], how: settings) -> None:
    """Live so many lives."""
    run_state_machine_as_test(begins, settings=how)  # type: ignore[arg-type]  # it takes whatever makes one


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory in memory, or at least a temporary one."""
    made = Path(tempfile.mkdtemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    yield made
    shutil.rmtree(made, ignore_errors=True)
    gc.collect()  # what the killed services left is this test's doing, and no later one's


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody reads the log of a thousand lives."""
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
    """25 lives of 40 steps are the 1,000 steps of fault 41."""
    is_lived(lambda: Machine(Path(tempfile.mkdtemp(dir=root))), lives(25, 1000, 40))


@pytest.mark.fault(39)
@pytest.mark.fault(41)
@pytest.mark.timeout(14_400 if SOAK else 600)
@pytest.mark.parametrize("platform", ["discord", "slack"])
def test_so_it_is_through_the_real_adapters(root: Path, platform: str) -> None:
    is_lived(lambda: WireMachine(Path(tempfile.mkdtemp(dir=root)), platform), lives(2, 50, 8))
