"""Tests that the first check of `bench.gpu` finds an operator that is wrong over row offsets."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.gpu_operator import DECODE, MIXED, Case, check_operator
from bot.engine.gpu.flat_attention import Kernel
from tests.support.builders.flash_attention import flash_attention, on_cpu
from tests.support.builders.step_recorder import RecordedSteps

CASES = [
    Case("decode", 4, 2, 32, None, DECODE),
    Case("window", 4, 4, 16, 60, DECODE),
    Case("mixed", 4, 2, 32, 9, MIXED),
]
BOTH = (Kernel.SPLIT, Kernel.WHOLE)


def without_offsets(*given: Any, **named: Any) -> Any:
    """Reads all rows where the last one is."""
    query, key, value, ends, starts, *more = given
    return flash_attention(query, key, value, ends, starts.amin().expand_as(starts), *more, **named)


def without_lengths(*given: Any, **named: Any) -> Any:
    """Reads a key less than a row has."""
    return flash_attention(*given, **named | {"seqused_k": (named["seqused_k"] - 1).clamp_min(1)})


def without_windows(*given: Any, **named: Any) -> Any:
    """Ignores sliding windows."""
    return flash_attention(*given, **named | {"window_size_left": -1})


def wrong_where_it_splits(*given: Any, **named: Any) -> Any:
    output, *unread = flash_attention(*given, **named)
    return (output * 1.1 if named["window_size_right"] == -1 else output), *unread


@pytest.mark.parametrize(
    ("operator", "kernels"),
    [
        (flash_attention, BOTH),
        (without_offsets, ()),
        (without_lengths, ()),
        (without_windows, ()),
        (wrong_where_it_splits, (Kernel.WHOLE,)),
    ],
)
def test_an_operator_that_is_wrong_is_found(operator: Callable[..., Any], kernels: tuple[Kernel, ...]) -> None:
    with on_cpu(operator):
        verdict = check_operator(torch.device("cpu"), RecordedSteps(), CASES)
    assert verdict.kernels == kernels
    assert bool(verdict.wrong) == (kernels != BOTH)


def test_a_graph_that_keeps_the_lengths_of_its_capture_is_found() -> None:
    """Numbers in place of tensors would be fixed at the capture."""
    known: list[torch.Tensor] = []

    def fixed(*given: Any, **named: Any) -> Any:
        if not known:
            known.append(named["seqused_k"].clone())
        slots, starts = len(given[1]), given[4][:-1]
        return flash_attention(*given, **named | {"seqused_k": torch.minimum(known[0], slots - starts)})

    with on_cpu(fixed):
        verdict = check_operator(torch.device("cpu"), RecordedSteps(), CASES[:1])
    assert verdict.kernels == ()
    assert "0.0" in verdict.wrong[0].split(",")[0], "it is right before the rows change"
