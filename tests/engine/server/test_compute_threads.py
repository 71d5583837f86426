"""Tests that only the computing thread has OpenMP helpers: more helpers than CPUs slow down every product."""

import asyncio
import threading
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from bot.engine.batching.batch import TrialListener
from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.client.process import EngineProcess
from bot.engine.cpu.cpu_batch import CpuBatch
from bot.engine.server.compute_threads import run_on_new_thread
from bot.types.messages import SamplingParams
from tests.support.builders.engine_requests import ask, load

pytest_plugins = ["tests.support.fixtures.engine"]


async def settled(process: psutil.Process, count: int) -> bool:
    """Whether the process soon has no more threads than this; a thread that ended is counted a little longer."""
    for _ in range(100):
        if process.num_threads() <= count:
            return True
        await asyncio.sleep(0.05)
    return False


@pytest.mark.asyncio(loop_scope="session")
async def test_what_was_done_apart_leaves_no_thread() -> None:
    def work() -> str:
        torch.ones(1_000_000).exp().sum()
        return threading.current_thread().name

    process = psutil.Process()
    before = process.num_threads()
    assert run_on_new_thread(work).startswith("run_on_new_thread")
    assert await settled(process, before)


def test_what_goes_wrong_apart_goes_wrong_here() -> None:
    with pytest.raises(ZeroDivisionError):
        run_on_new_thread(lambda: 1 / 0)


@pytest.mark.asyncio(loop_scope="session")
async def test_an_engine_has_helpers_only_while_it_answers(
    engine: EngineProcess, smollm2_dir: Path, tiny: dict[str, Path]
) -> None:
    seen: list[int] = []
    await load(engine, tiny["llama"])  # too small for torch to use several threads
    (process,) = (child for child in psutil.Process().children() if "bot.engine.server.runner" in child.cmdline())
    await ask(engine, "threads", "Hello.")  # starts the thread that builds prompts
    await asyncio.sleep(0.5)
    idle = process.num_threads()

    async def look(delta: int) -> None:
        seen.append(process.num_threads())

    for turn, path in enumerate((smollm2_dir, tiny["llama"], smollm2_dir)):
        await load(engine, path, dtype="auto")
        assert await settled(process, idle)
        seen.clear()
        await ask(engine, f"threads {turn}", "Tell me a story about a dog and a cat.", at_delta=look)
        if path == smollm2_dir:  # with many CPUs, its products are too small for all helpers
            assert idle < max(seen) <= idle + torch.get_num_threads(), "the batch and its helpers alone"
        assert await settled(process, idle)


def test_a_batch_that_is_told_of_what_is_gone_while_it_ends_goes_on(tiny: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny["llama"], dtype=torch.float32).eval()
    heard = TrialListener()
    batch = CpuBatch(model, 8, model.config.vocab_size, PrefillBudget(32, 64), heard)
    over = threading.Event()

    def cancel_what_is_not_there() -> None:
        while not over.wait(0.00001):
            batch.cancel("nobody")

    canceller = threading.Thread(target=cancel_what_is_not_there)
    canceller.start()
    try:
        for number in range(300):
            assert batch.add(str(number), [1, 2, 3], 1, (), SamplingParams())
            assert not heard.made.get(timeout=30).failed
    finally:
        over.set()
        canceller.join()
        batch.stop()
