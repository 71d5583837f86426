"""Kills the model's servers under 16 conversations: no answer is lost, doubled or cut."""

from pathlib import Path
from random import Random

import pytest

from tests.support.crash.server_kills import CONVERSATIONS, kill_servers

QUESTIONS = 5


@pytest.mark.fault(57)
async def test_kills_of_the_models_servers_lose_double_and_cut_nothing(tmp_path: Path) -> None:
    tally = await kill_servers(tmp_path, QUESTIONS, every_s=1.0, chance=Random(1))
    assert tally.kills >= 2, tally
    assert tally.failures > 0, tally
    assert tally.questions == CONVERSATIONS * QUESTIONS
    assert (tally.lost, tally.double, tally.broken, tally.errors) == (0, 0, 0, 0), tally
