"""An engine that hangs is replaced; one that is slow is left alone (fault 29)."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from torch.nn import Module
from transformers import AutoModelForCausalLM

from bot.engine.heart import Heart
from bot.engine.process import EngineProcess
from bot.errors import EngineDied
from bot.models.loading import layers_of
from tests.engine_harness import GREEDY, ask, load

pytest_plugins = ["tests.engine_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

HUNG_S = 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own() -> AsyncIterator[EngineProcess]:
    """An engine of this module's own, since it is made to hang."""
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


async def test_a_service_that_stood_still_itself_blames_nobody(own: EngineProcess, tiny: dict[str, Path]) -> None:
    await load(own, tiny["llama"])
    before = own.pid
    time.sleep(HUNG_S + 1)  # noqa: ASYNC251 -- as a virtual machine that is paused
    assert (await ask(own, "resumed", "Where are the keys?")).text
    assert own.pid == before


class Patient:
    """A heart that is looked at by hand."""

    def __init__(self) -> None:
        self.beats = 0
        self.busy = False
        self.heart = Heart(self._beat, lambda: self.busy)

    def _beat(self) -> None:
        self.beats += 1

    def beats_now(self) -> bool:
        """Whether the next tick is a beat."""
        before = self.beats
        self.heart.tick()
        return self.beats > before


async def test_it_beats_without_work() -> None:
    patient = Patient()
    assert [patient.beats_now() for _ in range(3)] == [True, True, True]


@pytest.mark.fault(29)
async def test_it_beats_at_work_only_while_something_moves() -> None:
    patient = Patient()
    patient.busy = True
    assert patient.beats_now(), "work that has only begun"
    assert not patient.beats_now()
    patient.heart.step()
    assert patient.beats_now()
    assert not patient.beats_now()
    patient.busy = False
    assert patient.beats_now()


@pytest.mark.fault(29)
async def test_every_decoder_layer_is_a_step(tiny: dict[str, Path]) -> None:
    patient = Patient()
    model = AutoModelForCausalLM.from_pretrained(tiny["phi3"])
    layers: list[Module] = list(layers_of(model))
    assert len(layers) == model.config.num_hidden_layers
    for layer in layers:
        layer.register_forward_pre_hook(patient.heart.step)
    patient.busy = True
    patient.beats_now()
    model(model.dummy_inputs["input_ids"] % model.config.vocab_size)
    assert patient.beats_now()
