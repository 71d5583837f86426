"""Loads full-width models, sends them requests, and computes generate()'s answers to the same."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import GenerationConfig

from bot.engine.client.process import EngineProcess
from bot.engine.text.decoding import TextDecoder
from bot.engine.text.prompts import PromptBuilder
from bot.models.device_errors import release_memory
from bot.models.fit import weights_mb
from bot.models.loading import TransformersModel, load
from bot.models.model_directory import from_config
from bot.models.model_spec import ModelSpec
from bot.types.engine import LoadedModel, LoadProgress, ModelSource
from bot.types.messages import Prompt
from tests.support.builders.engine_requests import prompt
from tests.support.builders.full_width_models import Real

TOKENS = 10
"""Length of every answer."""

QUESTIONS = (
    "Who wrote this, and when?",
    "What is the capital of France? " + "The keeper of the lighthouse wrote a letter about the sea. " * 6,
    "And then?",
)
"""Prompts of different lengths."""


@dataclass(frozen=True)
class Written:
    """A model on disk."""

    real: Real
    folder: Path

    def source(self, **how: object) -> ModelSource:
        """A source for a load on the CPU, with the facts of its catalog entry."""
        spec = self.real.spec
        facts: dict[str, Any] = {
            "template": spec.template,
            "stop": spec.stop,
            "context_window": spec.context_window,
            "device": "cpu",
        }
        return ModelSource(spec.name, str(self.folder), **(facts | how))


@dataclass(frozen=True)
class Grown:
    """A loaded model, and the MB by which the engine process grew."""

    model: LoadedModel
    resident_mb: int


async def load_measured(engine: EngineProcess, tiny_dir: Path, source: ModelSource) -> Grown:
    """Loads a model in a new process, in place of a tiny one, and measures the growth."""
    await engine.close()
    await engine.load(ModelSource("tiny", str(tiny_dir), device="cpu"), quiet)
    before = (await engine.stats()).resident_mb
    model = await engine.load(source, quiet)
    return Grown(model, (await engine.stats()).resident_mb - before)


@dataclass(frozen=True)
class Expected:
    """generate()'s answers to each of QUESTIONS, and to a second turn after QUESTIONS[1]."""

    answers: tuple[tuple[str, int], ...]
    second: tuple[str, int]
    second_turn: Prompt


def expect(written: Written, **how: object) -> Expected:
    """Loads the model in this process by our own loader, runs generate(), and frees the memory."""
    source = written.source(**how)
    loaded = load(source, quiet)
    prompts = PromptBuilder(loaded.tokenizer, source.template, source.context_window)
    answers = tuple(said(loaded, prompts, prompt(question), written.real.ends) for question in QUESTIONS)
    second_turn = prompt(QUESTIONS[1], answers[1][0], "Who wrote it?")
    second = said(loaded, prompts, second_turn, written.real.ends)
    del loaded
    gc.collect()
    release_memory()
    return Expected(answers, second, second_turn)


def said(loaded: TransformersModel, prompts: PromptBuilder, asked: Prompt, ends: Sequence[int]) -> tuple[str, int]:
    """generate()'s greedy answer to one prompt: the text and its number of tokens."""
    ids = torch.tensor([prompts.build(asked, TOKENS).ids])
    how = GenerationConfig(do_sample=False, max_new_tokens=TOKENS, eos_token_id=list(ends), pad_token_id=ends[0])
    out = cast(Any, loaded.model).generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)
    new = out[0, ids.shape[1] :].tolist()
    decoder = TextDecoder(loaded.tokenizer)
    spoken = [decoder.push([token]) for token in new if token not in ends]
    return "".join(spoken) + decoder.flush(), len(new)


def quiet(_: LoadProgress) -> None:
    """Ignores the progress of a load."""


def estimated(written: Written, dtype: str, quantization: str = "none") -> int:
    """The weights in MB that `inhouse models` estimates for this directory."""
    spec = from_config(ModelSpec(name=written.real.name, path=str(written.folder)), written.folder)
    return weights_mb(spec, dtype, quantization)
