"""The promise, under anything that may happen, in any order."""
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tests.machine.rules import Machine

@pytest.mark.timeout(600)
def test_the_promise_is_kept_whatever_happens(tmp_path_factory: pytest.TempPathFactory) -> None:
    run_state_machine_as_test(lambda: Machine(tmp_path_factory.mktemp("machine")), settings=settings(max_examples=20, stateful_step_count=25))
