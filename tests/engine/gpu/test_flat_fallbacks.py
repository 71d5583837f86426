"""Tests what a flat batch leaves out where the operator, the model or the memory does not allow it."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bot.engine.batching.batch import CannotBatch
from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.gpu.flat_attention import Kernel
from bot.engine.gpu.flat_batch import FlatBatch, GraphLimit
from bot.engine.gpu.flat_step import MAX_ROWS, STEP_SIZES
from bot.models.device_errors import Unrecoverable
from tests.support.builders.architectures import VOCABULARY, greedy, make
from tests.support.builders.batch_requests import Answers, Asked, answers
from tests.support.builders.flash_attention import flash_attention, on_cpu
from tests.support.builders.step_recorder import RecordedStep, RecordedSteps, WouldWait

ASKED = [Asked(str(number), [number + 2] * (30 * number + 1), 12) for number in range(5)]


def started(model: Any, **how: Any) -> FlatBatch:
    """A batch that tries all kernels and captures steps."""
    given: dict[str, Any] = {"kernels": tuple(Kernel), "capture": RecordedSteps()} | how
    return FlatBatch(model, 16, VOCABULARY, PrefillBudget(16, 100), Answers(deque()), **given)


def answers_are_right(batch: FlatBatch, **config: Any) -> None:
    """Compares a batch's answers with generate()'s, and stops it."""
    reference = make("llama", **config)
    found = answers(batch, ASKED)
    batch.stop()
    assert found.made == {each.key: greedy(reference, each.ids, each.tokens) for each in ASKED}


def wrong(where: Callable[[dict[str, Any]], bool]) -> Callable[..., Any]:
    """The operator with wrong results for calls with such keywords."""

    def operator(*given: Any, **named: Any) -> Any:
        output, *unread = flash_attention(*given, **named)
        return (output * 0.5 if where(named) else output), *unread

    return operator


def raises(*given: Any, **named: Any) -> Any:
    raise RuntimeError("this GPU has no such kernel")


@pytest.mark.parametrize(
    ("operator", "kernel"),
    [
        (flash_attention, Kernel.SPLIT),
        (wrong(lambda named: named["window_size_right"] == -1), Kernel.WHOLE),
        (wrong(lambda named: True), Kernel.BY_ROW),
        (raises, Kernel.BY_ROW),
    ],
    ids=["right", "wrong where it splits", "wrong", "raises"],
)
def test_the_first_kernel_whose_logits_are_right_is_used(operator: Callable[..., Any], kernel: Kernel) -> None:
    with on_cpu(operator):
        batch = started(make("llama"))
        assert batch.runner.kernel is kernel
        assert len(batch.runner.captured) == (0 if kernel is Kernel.BY_ROW else len(STEP_SIZES))
        answers_are_right(batch)


def test_offsets_are_tried_out_of_order() -> None:
    """An operator that reads each row where the one before it ended gives other logits."""

    def adjacent(*given: Any, **named: Any) -> Any:
        query, key, value, ends, starts, *more = given
        together = starts[0] + torch.nn.functional.pad(named["seqused_k"].cumsum(0, dtype=torch.int32), (1, 0))
        return flash_attention(query, key, value, ends, together.int().clamp_max(len(key) - 1), *more, **named)

    model = make("llama")
    with on_cpu(adjacent), pytest.raises(CannotBatch, match="its logits differ"):
        started(model, kernels=(Kernel.SPLIT,))
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_waits_for_the_gpu_runs_without_graphs() -> None:
    """Dynamic NTK looks at the longest position to choose its rotations."""
    rope: dict[str, Any] = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}}
    with on_cpu():
        batch = started(make("llama", **rope))
        assert batch.runner.captured == []
        answers_are_right(batch, **rope)


def test_steps_for_which_there_is_no_memory_run_without_graphs() -> None:
    with on_cpu():
        batch = started(make("llama"), capture=RecordedSteps(rooms=2))
        assert [size.tokens for size in batch.runner.captured] == [512, 256]
        answers_are_right(batch)


class WrongReplay(RecordedSteps):
    """Captures whose replays change nothing."""

    def capture(self, run: Callable[[], Tensor]) -> RecordedStep:
        step = super().capture(run)
        step.recording.calls.clear()
        return step


def test_a_graph_with_other_logits_is_not_used() -> None:
    with on_cpu():
        batch = started(make("llama"), capture=WrongReplay())
        assert batch.runner.captured == []
        answers_are_right(batch)


def test_after_a_lack_of_memory_fewer_steps_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, captured = GraphLimit(), list[int]()
    with on_cpu():
        for _ in range(3):
            model = make("llama")
            batch = started(model, limit=limit)
            captured.append(max((size.tokens for size in batch.runner.captured), default=0))
            fail_in_steps(monkeypatch, batch, model)
            assert answers(batch, ASKED[:1]).failed == "no room"
            assert batch.take_failure().memory
            batch.stop()
    assert captured == [512, MAX_ROWS, 0]


def fail_in_steps(monkeypatch: pytest.MonkeyPatch, batch: FlatBatch, model: Any) -> None:
    """Makes every step run out of memory, whether it is a graph or not."""

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    model.register_forward_pre_hook(fail)
    for size in batch.runner.captured:
        monkeypatch.setattr(batch.runner.steps[size], "fill", fail)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("no room"), MemoryError),
        (RuntimeError("CUDA error: unspecified launch failure"), Unrecoverable),
    ],
)
def test_a_lack_of_memory_or_a_lost_device_is_no_reason_to_try_another_way(
    error: Exception, raised: type[Exception]
) -> None:
    def fails(*given: Any, **named: Any) -> Any:
        raise error

    with on_cpu(fails), pytest.raises(raised):
        started(make("llama"))


def test_attention_with_other_features_is_not_batched() -> None:
    model = make("llama")

    def softcap(module: object, args: object, given: dict[str, Any]) -> tuple[object, dict[str, Any]]:
        return args, given | ({"softcap": 30.0} if "step" in given else {})

    model.register_forward_pre_hook(softcap, with_kwargs=True)
    with on_cpu(), pytest.raises(CannotBatch, match="features"):
        started(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_whose_tokens_see_their_chunk_only_is_not_batched() -> None:
    model = make("llama")
    model.config.attention_chunk_size = 8192
    with on_cpu(), pytest.raises(CannotBatch, match="chunk"):
        started(model)


@pytest.mark.parametrize(
    "waits",
    [
        lambda tensor: tensor.sum().item(),
        lambda tensor: bool(tensor.any()),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.nonzero(),
        lambda tensor: torch.tensor([1.0, 2.0]) + tensor[:2],
        lambda tensor: tensor.masked_select(tensor > 0),
        lambda tensor: torch.equal(tensor, tensor),
    ],
    ids=["item", "bool", "mask", "nonzero", "from Python", "masked_select", "equal"],
)
def test_the_recorder_refuses_what_waits_for_a_gpu(waits: Callable[[Tensor], Any]) -> None:
    def run() -> Tensor:
        waits(torch.ones(3))
        return torch.ones(1)

    with pytest.raises(WouldWait):
        RecordedSteps().check(run)


def test_a_replay_repeats_what_python_computed_and_reads_its_inputs_anew() -> None:
    numbers: Sequence[int] = [2, 3]
    factors, given = iter(numbers), torch.ones(2)
    step = RecordedSteps().capture(lambda: given * next(factors))
    given.fill_(5.0)
    step.replay()
    assert step.output.tolist() == [10.0, 10.0]
