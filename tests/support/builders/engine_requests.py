"""Sends requests to an engine in tests, and computes generate()'s answer to the same prompt."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from bot.engine.client.process import EngineProcess
from bot.engine.local_server.local_server_engine import LocalServerEngine
from bot.engine.text.decoding import TextDecoder
from bot.engine.text.prompts import PromptBuilder
from bot.types.engine import EngineRequest, LoadedModel, LoadProgress, ModelSource
from bot.types.messages import FinishReason, Prompt, Role, SamplingParams, Turn, Usage

GREEDY = SamplingParams(temperature=0.0, top_p=1.0, repetition_penalty=1.0, max_tokens=24)


@dataclass(frozen=True)
class Spoken:
    """A complete answer."""

    text: str
    deltas: int
    finish_reason: FinishReason | None
    usage: Usage


def prompt(*said: str, system: str = "", prefix: str = "") -> Prompt:
    """A conversation of alternating user and assistant turns, the user first."""
    turns = [
        Turn(Role.ASSISTANT if number % 2 else Role.USER, "" if number % 2 else "Ann", text, str(number), float(number))
        for number, text in enumerate(said)
    ]
    return Prompt(system, tuple(turns), prefix)


async def ask(
    engine: EngineProcess | LocalServerEngine,
    request_id: str,
    asked: Prompt | str,
    params: SamplingParams = GREEDY,
    at_delta: Callable[[int], Awaitable[None]] | None = None,
) -> Spoken:
    """Collects the whole answer to a prompt; awaits `at_delta(count)` after each delta."""
    text, count = "", 0
    request = EngineRequest(request_id, prompt(asked) if isinstance(asked, str) else asked, params)
    async with aclosing(engine.stream(request)) as deltas:
        async for delta in deltas:
            text, count = text + delta.text, count + 1
            if at_delta is not None:
                await at_delta(count)
    assert delta.usage is not None, "the last delta has no usage"
    return Spoken(text, count, delta.finish_reason, delta.usage)


async def load(engine: EngineProcess, path: Path, **how: object) -> LoadedModel:
    """Loads a model in fp32 on the CPU, unless `how` overrides it."""
    settings: dict[str, object] = {"device": "cpu", "dtype": "float32"}
    source = ModelSource(path.name, str(path), **(settings | how))  # type: ignore[arg-type]
    return await engine.load(source, _no_progress)


def _no_progress(progress: LoadProgress) -> None:
    assert 0.0 <= progress.fraction <= 1.0


class Reference:
    """generate() in this process on the same files: the expected answers."""

    def __init__(self, path: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self._prompts = PromptBuilder(self.tokenizer, "", self.model.config.max_position_embeddings)

    def answer(self, asked: Prompt | str, params: SamplingParams = GREEDY) -> tuple[str, int]:
        """The text and its number of tokens."""
        whole = prompt(asked) if isinstance(asked, str) else asked
        ids = torch.tensor([self._prompts.build(whole, params.max_tokens).ids])
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=params.max_tokens,
            repetition_penalty=params.repetition_penalty,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        new = out[0, ids.shape[1] :].tolist()
        decoder = TextDecoder(self.tokenizer)
        spoken = [decoder.push([token]) for token in new if token != self.tokenizer.eos_token_id]
        return "".join(spoken) + decoder.flush(), len(new)
