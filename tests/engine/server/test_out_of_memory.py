"""Tests memory shortages (fault 26) in both generators: all recovery steps run, and no answer is lost or duplicated.

The model is real; its forward pass is made to fail.
"""

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from bot.engine.batching.batch import Batch
from bot.engine.client.protocol import Failed
from bot.engine.cpu.kv_cache import Slab
from bot.engine.gpu.flat_cache import FlatCache
from bot.models.device_errors import UNANSWERABLE, Failure, Unrecoverable, classify
from tests.support.builders.engine_requests import GREEDY
from tests.support.builders.in_process_engine import BATCHES, KINDS, Bench

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = pytest.mark.fault(26)

PARAMS = replace(GREEDY, repetition_penalty=1.1)
WHO, WHERE = "Who wrote this?", "Where are the keys?"


def shortage_on_the_cpu() -> Exception:
    """The exception of torch's CPU allocator."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    return RuntimeError(*caught.value.args)


def shortage_on_the_gpu() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture(autouse=True)
def no_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns off the library's log of exceptions: pytest would keep the record, and with it the frames."""
    monkeypatch.setattr(logging.getLogger("ContinuousBatchingLogger"), "disabled", True)


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tiny: dict[str, Path]) -> Iterator[Bench]:
    bench = Bench(tiny["llama"], kind=request.param)
    yield bench
    bench.generator.close()


@pytest.mark.parametrize("steps", [0, 5], ids=["prefill", "decode"])
@pytest.mark.parametrize("shortage", [shortage_on_the_gpu, shortage_on_the_cpu])
def test_out_of_memory_once_costs_no_answer(bench: Bench, shortage: Callable[[], Exception], steps: int) -> None:
    expected = [bench.whole(1, WHO, PARAMS), bench.whole(2, WHERE, PARAMS)]
    bench.fail_in(steps, [shortage()])
    bench.submit(3, WHO, PARAMS)
    bench.submit(4, WHERE, PARAMS)
    bench.run()
    assert [bench.texts[3], bench.texts[4]] == expected
    assert bench.whole(5, WHO, PARAMS) == expected[0]


@pytest.mark.parametrize("steps", [1, 5], ids=["prefill", "decode"])
def test_twice_is_a_clear_error_for_that_answer_alone(bench: Bench, steps: int) -> None:
    expected = bench.whole(1, WHERE, PARAMS)
    seen = 0

    def only_in_the_first(module: object, args: object, given: dict[str, Any]) -> None:
        nonlocal seen
        if threading.current_thread() is threading.main_thread():
            return  # the flat batch tries the model before its first step
        if 2 in bench.ends or seen < steps:
            seen += 1
        else:
            seen = 0
            raise torch.OutOfMemoryError("CUDA out of memory.")

    bench.model.register_forward_pre_hook(only_in_the_first, with_kwargs=True)
    bench.submit(2, WHO, PARAMS)
    bench.submit(3, WHERE, PARAMS)
    bench.run()
    assert bench.ends[2] == Failed(2, UNANSWERABLE)
    assert "even when it ran alone with an empty KV cache" in UNANSWERABLE
    assert bench.texts[3] == expected
    assert bench.whole(4, WHERE, PARAMS) == expected


def test_what_the_failed_step_held_is_given_back_before_the_next_one(bench: Bench) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    left_over: list[bool] = []

    def hook(module: object, args: object) -> None:
        if held:
            left_over.append(held[0]() is not None)
        elif len(bench.texts.get(1, "")) > 5:
            activation = torch.zeros(1000)  # a local variable, which the traceback keeps alive
            held.append(weakref.ref(activation))
            raise torch.OutOfMemoryError("CUDA out of memory.")

    expected = bench.whole(7, WHO, PARAMS)
    bench.model.register_forward_pre_hook(hook)
    assert bench.whole(1, WHO, PARAMS) == expected
    assert left_over
    assert not any(left_over)


def memory_of_caches() -> int:
    """Bytes of all KV caches in this process."""
    found = gc.get_objects()
    rows = [each.held for each in found if type(each) is Slab]
    paged = [each.cache_tensor for each in found if type(each) is PagedAttentionCache]
    flat = [each.held for each in found if type(each) is FlatCache and each.unused_slot]  # a closed one has 512 bytes
    return sum(tensor.nbytes for tensor in (*rows, *paged, *flat))


@pytest.mark.parametrize("kind", list(BATCHES))
def test_the_old_cache_is_gone_before_a_new_one_is_made(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    start = BATCHES[kind]
    caches: list[int] = []

    def watched(*how: Any) -> Batch:
        caches.append(memory_of_caches())
        return start(*how)

    monkeypatch.setitem(BATCHES, kind, watched)
    others = memory_of_caches()
    bench = Bench(tiny["llama"], kind=kind)
    bench.whole(2, WHERE, PARAMS)
    assert memory_of_caches() > others
    bench.fail_in(3, [torch.OutOfMemoryError("CUDA out of memory.")])
    bench.whole(1, WHO, PARAMS)
    bench.generator.close()
    assert caches == [others, others]


def test_a_token_is_tried_before_answers_are_retried(bench: Bench) -> None:
    """If a single token does not fit, the process is replaced."""
    sizes: list[int] = []

    def hook(module: object, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        sizes.append((args[0] if args else given["input_ids"]).numel())
        if len(sizes) >= 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    bench.model.register_forward_pre_hook(hook, with_kwargs=True)
    bench.submit(1, WHO, PARAMS)
    with pytest.raises(Unrecoverable, match="nothing can be generated"):
        bench.run()
    assert len(sizes) == 5
    assert 1 not in bench.ends


@pytest.mark.parametrize("bench", ["sequential"], indirect=True)
def test_a_seeded_answer_stays_the_one_of_its_seed(bench: Bench) -> None:
    params = replace(PARAMS, temperature=1.3, seed=11)
    expected = bench.whole(1, WHO, params)
    bench.fail_in(5, [torch.OutOfMemoryError("CUDA out of memory.")])
    assert bench.whole(2, WHO, params) == expected


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (shortage_on_the_gpu(), Failure("CUDA out of memory. Tried to allocate 2.00 GiB", memory=True)),
        (MemoryError(), Failure("MemoryError", memory=True)),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling it"), Failure("", memory=True)),
        (RuntimeError("CUDA error: out of memory"), Failure("", memory=True)),
        (RuntimeError("CUDA error: device-side assert triggered"), Failure("", device_lost=True)),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), Failure("", device_lost=True)),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), Failure("")),
        (ValueError("out of memory is a phrase"), Failure("")),
    ],
)
def test_what_an_exception_means(error: Exception, failure: Failure) -> None:
    assert classify(error) == replace(failure, why=failure.why or str(error))
