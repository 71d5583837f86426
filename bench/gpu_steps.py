"""Checks B and D of `bench.gpu`: steps of a model at Phi-4's width, and the sampling of their tokens."""

import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench.gpu_clock import bandwidth, replay_ms, used_mb, wait, work_ms
from bench.shapes import config_of
from bot.engine.batching.fused_norms import restore_norms
from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.batching.sampling import RequestSampler
from bot.engine.gpu.cuda_graphs import Capture
from bot.engine.gpu.device_sampler import DeviceSampler, SampledRow
from bot.engine.gpu.flat_attention import Kernel
from bot.engine.gpu.flat_batch import FlatBatch, GraphLimit, trial_chunks
from bot.engine.gpu.flat_step import STEP_SIZES, StepSize
from bot.types.messages import SamplingParams
from tests.support.builders.batch_requests import Answers, Asked, answers

LAYERS = 8
MEASURED = (1, 8, 32, 64, 512)
"""Tokens of the step sizes that are measured."""
TOKENS = 64


@dataclass(slots=True)
class Steps:
    """What check B found, in ms by the tokens of a step. floor_ms: the time to read all weights once.

    captured: the sizes that run as graphs. gap_ms: what the host adds to a decode step of 1, 8 and 32 answers.
    """

    copy_gbs: float
    floor_ms: float
    kernel: Kernel
    captured: Sequence[StepSize]
    capture_s: float
    capture_mb: float
    eager_ms: dict[int, float] = field(default_factory=dict)
    replay_ms: dict[int, float] = field(default_factory=dict)
    unfused_ms: dict[int, float] = field(default_factory=dict)
    kernels: dict[str, int] = field(default_factory=dict)
    gap_ms: dict[int, float] = field(default_factory=dict)


def model_of(device: torch.device, layers: int = LAYERS, **more: object) -> Any:
    """A model of Phi-4's width with random weights."""
    with torch.device(device):
        config = config_of("phi-4", layers, pad_token_id=0, **more)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval()


def started(model: Any, capture: Capture, kernels: Sequence[Kernel], limit: int = 512) -> FlatBatch:
    """A batch with room for 32 answers."""
    unheard = Answers(deque())
    budget, size = PrefillBudget(32, 512), model.config.vocab_size
    return FlatBatch(
        model, 128, size, budget, unheard, limit=GraphLimit(limit), kernels=tuple(kernels), capture=capture
    )


@torch.inference_mode()
def measure_steps(
    model: Any, capture: Capture, kernels: Sequence[Kernel], copied: int = 2 << 30, measured: Sequence[int] = MEASURED
) -> Steps:
    """Check B: eager steps and graphs, with torch's RMS norm and with the model's own."""
    device, speed = model.device, bandwidth(model.device, copied)
    weights = sum(each.nbytes for name, each in model.named_parameters() if "embed_tokens" not in name)
    before_s, before_mb = perf_counter(), used_mb(device)
    batch = started(model, capture, kernels)
    wait(device)
    runner = batch.runner
    found = Steps(
        speed / 1e9,
        weights / speed * 1000,
        runner.kernel,
        runner.captured,
        perf_counter() - before_s,
        used_mb(device) - before_mb - runner.cache.held.nbytes / 1e6,
    )
    sizes = [size for size in STEP_SIZES if size.tokens in measured]
    for size in sizes:
        runner.steps[size].fill(trial_chunks(size, runner.cache.unused_slot, model.config.vocab_size, 0))
        found.eager_ms[size.tokens] = work_ms(partial(runner.compute, size), device)
        if size in runner.captured:
            found.replay_ms[size.tokens] = work_ms(partial(runner.replay, size), device)
    one = next(size for size in STEP_SIZES if size.tokens == 1)
    found.kernels["fused"] = launches(lambda: runner.compute(one))
    for number in (1, 8, 32):
        found.gap_ms[number] = step_ms(batch, number) - found.replay_ms.get(number, found.eager_ms.get(number, 0.0))
    restore_norms(model)
    found.kernels["unfused"] = launches(lambda: runner.compute(one))
    if runner.captured:
        for size in sizes:
            replay = capture.capture(partial(runner.compute, size))
            found.unfused_ms[size.tokens] = replay_ms(replay, device)
    batch.stop()
    return found


def launches(step: Any) -> int:
    """The number of kernels of a step on a GPU."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    if not torch.cuda.is_available():
        return 0
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if event.self_device_time_total > 0)


def step_ms(batch: FlatBatch, number: int) -> float:
    """Mean ms of a decode step of so many answers in a running batch."""
    at: list[float] = []
    asked = [Asked(f"{number} {place}", [5 + place, 7], TOKENS) for place in range(number)]
    answers(batch, asked, lambda: at.append(perf_counter()))
    half = len(at) // 2  # all answers have begun by then
    return (at[-1] - at[half]) / (len(at) - 1 - half) * 1000


@torch.inference_mode()
def measure_sampling(device: torch.device, vocabulary: int, rows: Sequence[int] = (1, 8, 32)) -> dict[int, float]:
    """Check D: ms to sample the tokens of a step with the default parameters, by the number of rows."""
    found, params = {}, SamplingParams()
    for number in rows:
        sampler = DeviceSampler(32, vocabulary, device)
        places = [sampler.begin(RequestSampler(params, vocabulary), range(200)) for _ in range(number)]
        logits = torch.randn((number, vocabulary), device=device) * 3
        sampled = [SampledRow(place, range(201)) for place in places]
        found[number] = work_ms(partial(sampler.sample, logits, sampled), device)
    return found


@torch.inference_mode()
def waits_of_sampling(device: torch.device, vocabulary: int) -> int:
    """How often sampling a step waits for the GPU."""
    sampler = DeviceSampler(32, vocabulary, device)
    place = sampler.begin(RequestSampler(SamplingParams(), vocabulary), range(200))
    logits = torch.randn((1, vocabulary), device=device)
    if device.type != "cuda":
        return 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            sampler.sample(logits, [SampledRow(place, range(200))])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(each.message) for each in told)
