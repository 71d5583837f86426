"""Tests the simulation of `bench.capacity` on cases whose result can be computed by hand."""

from dataclasses import replace

import pytest

from bench.capacity import PHI4_H100, Simulation, Speeds, Traffic, decode_speeds

SPEEDS = Speeds(((1, 10.0), (4, 20.0)), prefill=1000.0, kept=1_000_000)
QUIET = Traffic(pause_s=10_000.0, history=900, new=100, answer=20)


def simulated(speeds: Speeds, traffic: Traffic, gpus: int, channels: int, seconds: float = 1e5) -> Simulation:
    simulation = Simulation(speeds, traffic, gpus, channels, seconds, seed=1)
    simulation.run()
    return simulation


def test_a_step_takes_what_was_measured_and_lies_between_for_other_numbers() -> None:
    assert SPEEDS.step_s(1) == pytest.approx(0.1)
    assert SPEEDS.step_s(4) == pytest.approx(0.2)
    assert 0.1 < SPEEDS.step_s(2) < SPEEDS.step_s(3) < 0.2


def test_a_channel_alone_waits_for_its_new_tokens_only() -> None:
    found = simulated(SPEEDS, replace(QUIET, new=300), 1, 1)
    assert found.firsts[1:] == pytest.approx([0.3] * (len(found.firsts) - 1))
    assert len(found.firsts) > 1
    assert found.speeds == pytest.approx([10.0] * len(found.speeds))


def test_a_conversation_that_was_not_kept_is_read_again() -> None:
    found = simulated(replace(SPEEDS, kept=0), QUIET, 1, 1)
    assert found.firsts == pytest.approx([1.0] * len(found.firsts))
    assert found.firsts


def test_more_servers_are_never_slower_and_full_ones_send_conversations_away() -> None:
    busy = Traffic(pause_s=5.0, answer=100)
    one, four = (simulated(PHI4_H100, busy, gpus, 60, 300.0) for gpus in (1, 4))
    assert max(four.firsts) < max(one.firsts)
    assert one.moved == 0
    assert four.moved > 0


def test_speeds_are_parsed() -> None:
    assert decode_speeds("8:131,1:17") == ((1, 17.0), (8, 131.0))
    for wrong in ("", "1", "1:0", "0:5", "1:2,1:3", "a:b"):
        with pytest.raises(Exception, match="is not like"):
            decode_speeds(wrong)
