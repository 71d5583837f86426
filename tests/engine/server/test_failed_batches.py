"""Tests failures of the library's batch, on a real model whose forward pass fails: what happens to the answers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bot.engine.batching.batch import CannotBatch
from bot.engine.client.protocol import Failed, Text
from bot.engine.server.batched_generator import Batching, BatchType
from bot.models.device_errors import Unrecoverable
from bot.types.messages import FinishReason
from tests.support.builders.engine_requests import GREEDY
from tests.support.builders.in_process_engine import BATCHES, KINDS, Bench

pytest_plugins = ["tests.support.fixtures.engine"]

PARAMS = replace(GREEDY, repetition_penalty=1.1)


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tiny: dict[str, Path]) -> Iterator[Bench]:
    bench = Bench(tiny["llama"], kind=request.param)
    yield bench
    bench.generator.close()


@pytest.mark.parametrize("bench", list(BATCHES), indirect=True)
def test_after_a_failed_step_the_running_answers_fail_and_new_ones_are_given(bench: Bench) -> None:
    expected = bench.whole(1, "Who wrote this?", PARAMS)
    bench.fail_in(5, [RuntimeError("something inside broke")])
    bench.submit(2, "Who wrote this?", PARAMS)
    bench.submit(3, "Where are the keys?", PARAMS)
    bench.run()
    assert [bench.ends[stream] for stream in (2, 3)] == [
        Failed(stream, "The model failed on this answer: something inside broke.") for stream in (2, 3)
    ]
    assert bench.whole(4, "Who wrote this?", PARAMS) == expected
    free, blocks = bench.generator.blocks()
    assert free == blocks


def test_an_abort_that_comes_with_the_death_is_an_abort(bench: Bench) -> None:
    bench.fail_in(5, [torch.OutOfMemoryError("no room")], before=lambda: bench.generator.abort(1))
    bench.submit(1, "Who wrote this?", PARAMS)
    bench.run()
    end = bench.ends[1]
    assert isinstance(end, Text)
    assert end.finish_reason is FinishReason.ABORT


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("an illegal memory access was encountered", 700),
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb)`"),
    ],
    ids=["accelerator", "assert", "cublas"],
)
def test_a_broken_device_ends_the_process(bench: Bench, error: Exception) -> None:
    bench.fail_in(3, [error])
    bench.submit(1, "Who wrote this?", PARAMS)
    with pytest.raises(Unrecoverable, match=r"illegal memory access|device-side assert triggered$|EXECUTION_FAILED"):
        bench.run()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), MemoryError),
        (RuntimeError("CUDA error: device-side assert triggered"), Unrecoverable),
        (RuntimeError("this attention is of no use here"), CannotBatch),
    ],
)
@pytest.mark.parametrize("kind", BATCHES.values(), ids=list(BATCHES))
def test_a_batch_that_fails_while_it_is_tried_out_says_how(
    tiny: dict[str, Path], kind: BatchType, error: Exception, raised: type[Exception]
) -> None:
    """The kind of failure decides whether the KV cache shrinks, the process is replaced, or batching is turned off."""
    model: Any = AutoModelForCausalLM.from_pretrained(tiny["llama"], dtype=torch.float32).eval()

    def fail(module: object, args: object) -> None:
        raise error

    model.register_forward_pre_hook(fail)
    with pytest.raises(raised, match=str(error).rstrip(".")):
        Batching(kind, model, 64, model.config.vocab_size, lambda call: None, lambda item: None)
