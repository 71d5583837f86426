"""How the tests of the real shapes load them and ask them, and what generate() says to the same."""

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
from bot.models.device_errors import give_back
from bot.models.fit import weights_mb
from bot.models.loading import Loaded, load
from bot.models.model_directory import from_config
from bot.models.model_spec import ModelSpec
from bot.types.engine import LoadedModel, LoadProgress, ModelSource
from bot.types.messages import Prompt
from tests.support.builders.engine_requests import prompt
from tests.support.builders.full_width_models import Real

TOKENS = 10
"""Of every answer."""

QUESTIONS = (
    "Who wrote this, and when?",
    "What is the capital of France? " + "The keeper of the lighthouse wrote a letter about the sea. " * 6,
    "And then?",
)
"""Of different lengths."""


@dataclass(frozen=True)
class Written:
    """A model on disk."""

    real: Real
    folder: Path

    def source(self, **how: object) -> ModelSource:
        """To be loaded on the CPU, as its entry in the catalog says."""
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
    """A load by the engine, and by how many MB its process grew with it."""

    model: LoadedModel
    resident_mb: int


async def load_measured(engine: EngineProcess, tiny_dir: Path, source: ModelSource) -> Grown:
    """Load it in place of a tiny one, in a process that nothing else was in."""
    await engine.close()
    await engine.load(ModelSource("tiny", str(tiny_dir), device="cpu"), quiet)
    before = (await engine.stats()).resident_mb
    model = await engine.load(source, quiet)
    return Grown(model, (await engine.stats()).resident_mb - before)


@dataclass(frozen=True)
class Expected:
    """What generate() says to each of QUESTIONS, and then to the second turn after the first."""

    answers: tuple[tuple[str, int], ...]
    second: tuple[str, int]
    second_turn: Prompt


def expect(written: Written, **how: object) -> Expected:
    """Load the model in this process by our own path, let generate() speak, and give the memory back."""
    source = written.source(**how)
    loaded = load(source, quiet)
    prompts = PromptBuilder(loaded.tokenizer, source.template, source.context_window)
    answers = tuple(said(loaded, prompts, prompt(question), written.real.ends) for question in QUESTIONS)
    second_turn = prompt(QUESTIONS[1], answers[1][0], "Who wrote it?")
    second = said(loaded, prompts, second_turn, written.real.ends)
    del loaded
    gc.collect()
    give_back()
    return Expected(answers, second, second_turn)


def said(loaded: Loaded, prompts: PromptBuilder, asked: Prompt, ends: Sequence[int]) -> tuple[str, int]:
    """generate()'s greedy answer to one prompt: the text, and how many tokens it took."""
    ids = torch.tensor([prompts.build(asked, TOKENS).ids])
    how = GenerationConfig(do_sample=False, max_new_tokens=TOKENS, eos_token_id=list(ends), pad_token_id=ends[0])
    out = cast(Any, loaded.model).generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)
    new = out[0, ids.shape[1] :].tolist()
    decoder = TextDecoder(loaded.tokenizer)
    spoken = [decoder.push([token]) for token in new if token not in ends]
    return "".join(spoken) + decoder.flush(), len(new)


def quiet(_: LoadProgress) -> None:
    """Hears of a load's progress and says nothing."""


def estimated(written: Written, dtype: str, quantization: str = "none") -> int:
    """What `inhouse models` says of this directory."""
    spec = from_config(ModelSpec(name=written.real.name, path=str(written.folder)), written.folder)
    return weights_mb(spec, dtype, quantization)
