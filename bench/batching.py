"""`python -m bench.batching`: what batching brings, and what our path costs.

Eight conversations, greedy, in the number type that suits the machine, the same answer lengths, three rounds,
interleaved: one after another with generate(); at once in transformers' batching manager, bare; at once through our
engine (its process, connection, prompts, decoding). Prints tokens a second and the two ratios that the project
promises.
"""

import asyncio
from queue import SimpleQueue
from statistics import median
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.requests import GenerationOutput

from bench.asking import ask, conversation, model_directory, unseen
from bot.engine.base import ModelSource
from bot.engine.process import EngineProcess
from bot.engine.prompts import PromptBuilder

CONVERSATIONS = 8
TOKENS = 64
ROUNDS = 3
SUBJECTS = ("the sea", "a lighthouse", "two brothers", "an old clock", "the moon", "a train", "a forest", "a baker")


def questions(round_number: int) -> list[str]:
    """Prompts that no earlier round used, so that nothing is found in a cache."""
    return [f"{round_number}: write a long story about {subject}." for subject in SUBJECTS]


class Bare:
    """generate() and the bare batching manager, on one model in this process."""

    def __init__(self, path: str, dtype: str) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
        self._prompts = PromptBuilder(tokenizer, "", 8192)
        self._greedy = GenerationConfig(
            do_sample=False, max_new_tokens=TOKENS, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
        )
        self._outputs: SimpleQueue[GenerationOutput] = SimpleQueue()
        self._count = 0
        self._manager = self._model.init_continuous_batching(
            self._greedy,
            ContinuousBatchingConfig(
                page_size=16, num_blocks=1400, max_batch_tokens=528, max_requests_per_batch=16, use_async_batching=False
            ),
        )
        self._manager.output_router = _ToQueue(self._outputs)
        self._manager.start()

    def one_after_another(self, texts: list[str]) -> float:
        """Tokens a second."""
        began, made = perf_counter(), 0
        for ids in self._ids(texts):
            tensor = torch.tensor([ids])
            out = self._model.generate(tensor, attention_mask=torch.ones_like(tensor), generation_config=self._greedy)
            made += out.shape[1] - len(ids)
        return _speed(made, len(texts), perf_counter() - began)

    def at_once(self, texts: list[str]) -> float:
        """Tokens a second."""
        prompts = self._ids(texts)
        began, made, left = perf_counter(), 0, len(prompts)
        for ids in prompts:
            self._count += 1
            self._manager.add_request(ids, request_id=str(self._count), max_new_tokens=TOKENS, streaming=True)
        while left:
            output = self._outputs.get(timeout=60)
            if output.is_finished():
                left -= 1
                made += len(output.generated_tokens)
        return _speed(made, len(texts), perf_counter() - began)

    def close(self) -> None:
        self._manager.stop(block=True)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [self._prompts.build(conversation([text]), TOKENS).ids for text in texts]


class _ToQueue(OutputRouter):
    """The cheapest way out of the manager."""

    def __init__(self, outputs: "SimpleQueue[GenerationOutput]") -> None:
        super().__init__()
        self._outputs = outputs

    def deliver(self, output: GenerationOutput) -> None:
        self._outputs.put(output)

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        for output in outputs:
            self._outputs.put(output)


async def ours(engine: EngineProcess, round_number: int) -> float:
    """Tokens a second through our engine."""
    texts = questions(round_number)
    began = perf_counter()
    answers = await asyncio.gather(
        *(ask(engine, f"{round_number} {n}", conversation([text]), TOKENS) for n, text in enumerate(texts))
    )
    return _speed(sum(answer.usage.generated_tokens for answer in answers), len(texts), perf_counter() - began)


def _speed(made: int, answers: int, seconds: float) -> float:
    if made != answers * TOKENS:
        raise SystemExit(f"{answers} answers took {made} tokens, not {TOKENS} each: they cannot be compared")
    return made / seconds


async def main() -> None:
    """Measure and print."""
    path = str(model_directory(main.__module__))
    engine = EngineProcess()
    loaded = await engine.load(ModelSource("bench", path, device="cpu"), unseen)
    bare = Bare(path, loaded.dtype)
    print(f"{CONVERSATIONS} conversations, {TOKENS} tokens each, {loaded.dtype}, {torch.get_num_threads()} threads")
    rows: list[tuple[float, float, float]] = []
    for number in range(ROUNDS + 1):  # the first one warms up
        texts = questions(number)
        rows.append((bare.one_after_another(texts), bare.at_once(texts), await ours(engine, number)))
        label = f"round {number}" if number else "warm-up"
        print(f"{label:9}  generate() {rows[-1][0]:6.1f}   bare manager {rows[-1][1]:6.1f}   ours {rows[-1][2]:6.1f}")
    await engine.close()
    bare.close()
    serial, batched, through = (median(column) for column in zip(*rows[1:], strict=True))
    print(f"median     generate() {serial:6.1f}   bare manager {batched:6.1f}   ours {through:6.1f}   tokens/s")
    print(f"ours / generate()     {through / serial:5.2f}   (promised: at least 3.5)")
    print(f"ours / bare manager   {through / batched:5.2f}   (promised: at least 0.90)")


if __name__ == "__main__":
    asyncio.run(main())
