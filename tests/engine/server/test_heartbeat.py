"""Tests that an engine that hangs is replaced and a slow one is not (fault 29, and fault 55 for loads)."""

import asyncio
import mmap
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from torch.nn import Module
from transformers import AutoModelForCausalLM

from bot.engine.client.process import EngineProcess
from bot.engine.server.runner import Heartbeat, io_activity
from bot.models.loading import layers_of
from bot.types.errors import EngineDied, ModelError
from tests.support.builders.engine_requests import GREEDY, ask, load
from tests.support.builders.faulty_engine_process import DIRECTORY, write_script

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

HUNG_S = 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own() -> AsyncIterator[EngineProcess]:
    """An engine of this module's own, because tests make it hang."""
    process = EngineProcess(HUNG_S)
    yield process
    await process.close()


@pytest.mark.fault(29)
async def test_a_process_that_stands_still_is_replaced(own: EngineProcess, tiny: dict[str, Path]) -> None:
    await load(own, tiny["llama"])
    first = own.pid
    assert first is not None

    async def freeze(count: int) -> None:
        if count == 3:
            os.kill(first, signal.SIGSTOP)

    with pytest.raises(EngineDied):
        await ask(own, "frozen", "Where are the keys?", replace(GREEDY, max_tokens=400), freeze)
    await load(own, tiny["llama"])
    assert own.pid != first
    assert (await ask(own, "after", "Where are the keys?")).text


async def test_one_that_has_nothing_to_do_lives_on(own: EngineProcess, tiny: dict[str, Path]) -> None:
    await load(own, tiny["llama"])
    before = own.pid
    await asyncio.sleep(HUNG_S + 1)
    assert own.pid == before
    assert (await ask(own, "rested", "Where are the keys?")).text


async def test_a_service_that_stood_still_itself_restarts_no_engine(own: EngineProcess, tiny: dict[str, Path]) -> None:
    await load(own, tiny["llama"])
    before = own.pid
    time.sleep(HUNG_S + 1)  # noqa: ASYNC251 -- like a paused virtual machine
    assert (await ask(own, "resumed", "Where are the keys?")).text
    assert own.pid == before


class ManualHeartbeat:
    """A heartbeat that a test checks manually."""

    def __init__(self) -> None:
        self.beats = 0
        self.busy = False
        self.heart = Heartbeat(self._beat, lambda: self.busy)

    def _beat(self) -> None:
        self.beats += 1

    def beats_now(self) -> bool:
        """Whether the next tick sends a beat."""
        before = self.beats
        self.heart.tick()
        return self.beats > before


async def test_it_beats_without_work() -> None:
    manual = ManualHeartbeat()
    assert [manual.beats_now() for _ in range(3)] == [True, True, True]


@pytest.mark.fault(29)
async def test_it_beats_at_work_only_while_something_moves() -> None:
    manual = ManualHeartbeat()
    manual.busy = True
    assert manual.beats_now(), "work that has only begun"
    assert not manual.beats_now()
    manual.heart.step()
    assert manual.beats_now()
    assert not manual.beats_now()
    manual.busy = False
    assert manual.beats_now()


@pytest.mark.fault(29)
async def test_every_decoder_layer_is_a_step(tiny: dict[str, Path]) -> None:
    manual = ManualHeartbeat()
    model = AutoModelForCausalLM.from_pretrained(tiny["phi3"])
    layers: list[Module] = list(layers_of(model))
    assert len(layers) == model.config.num_hidden_layers
    for layer in layers:
        layer.register_forward_pre_hook(manual.heart.step)
    manual.busy = True
    manual.beats_now()
    model(model.dummy_inputs["input_ids"] % model.config.vocab_size)
    assert manual.beats_now()


@pytest.mark.fault(55)
async def test_each_activity_holds_back_the_beat_for_itself() -> None:
    manual = ManualHeartbeat()
    manual.busy = True
    loading, state = False, 0
    manual.heart.watch(lambda: loading, lambda: state)
    loading = True
    assert manual.beats_now(), "a load that has only begun"
    manual.heart.step()
    assert not manual.beats_now(), "answers move and the load does not"
    manual.heart.step()
    state = 1
    assert manual.beats_now()
    loading = False
    manual.heart.step()
    assert manual.beats_now()


@pytest.mark.fault(55)
async def test_what_a_load_reads_and_fills_is_movement() -> None:
    def fill() -> mmap.mmap:
        memory = mmap.mmap(-1, 16 << 20)  # bytearrays may lie in memory that the process has already
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1
        return memory

    before = io_activity()
    assert io_activity() == before
    filled = fill()
    assert io_activity() != before
    assert filled


@pytest.mark.fault(55)
@pytest.mark.timeout(600)
async def test_a_load_that_stands_still_is_given_up_by_name_and_a_slow_one_is_left_alone(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(write_script(tmp_path)))
    slow, stuck = (tmp_path / name for name in ("slow", "stuck"))
    for folder in (slow, stuck):
        folder.symlink_to(tiny["llama"])
    engine = EngineProcess(HUNG_S)
    try:
        assert (await load(engine, slow)).name == "slow"
        process = engine.pid
        with pytest.raises(
            ModelError,
            match=r"^Loading stuck made no progress for 5 s at 'reading the tokenizer' .* choose another model\.$",
        ):
            await load(engine, stuck)
        assert (await load(engine, tiny["llama"])).name == "llama"
        assert engine.pid not in (None, process)
        assert (await ask(engine, "after", "Where are the keys?")).text
    finally:
        await engine.close()
