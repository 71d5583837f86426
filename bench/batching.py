"""`python -m bench.batching`: measures the gain of batching and the overhead of the service.

Eight greedy conversations with equal answer lengths, in five interleaved rounds: one after another with generate(); at
once in transformers' batching manager alone; at once through the whole service (storage, queue, worker, engine process,
prompts, decoding, replies). Prints tokens per second and the two ratios with their targets. --dtype: auto selects the
best for the machine; where that is packed weights, only ours uses them, and the others use the best unpacked dtype.
Then sends sixteen conversations through the service and measures the lag of its event loop.
"""

import asyncio
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

from bench.asking import conversation, options
from bench.bare import Outputs
from bench.instant_platform import InstantPlatform, run_service
from bench.serving import Lag
from bot.engine.server.compute_threads import run_on_new_thread
from bot.engine.text.prompts import PromptBuilder

CONVERSATIONS = 8
TOKENS = 64
ROUNDS = 5
SUBJECTS = ("the sea", "a lighthouse", "two brothers", "an old clock", "the moon", "a train", "a forest", "a baker")


def questions(round_number: int) -> list[str]:
    """Prompts that differ from all earlier rounds, so that no cache contains them."""
    return [f"{round_number}: write a long story about {subject}." for subject in SUBJECTS]


class Bare:
    """generate() and the batching manager alone, on one model in this process.

    The manager computes on its own thread; loading and generate() run on threads that end: more than one thread with
    OpenMP helpers would slow down all of them (`bot.engine.server.compute_threads`).
    """

    def __init__(self, path: str, dtype: str) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
        self._prompts = PromptBuilder(tokenizer, "", 8192)
        self._greedy = GenerationConfig(
            do_sample=False, max_new_tokens=TOKENS, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
        )
        self._outputs = Outputs()
        self._count = 0
        self._manager = self._model.init_continuous_batching(
            self._greedy,
            ContinuousBatchingConfig(
                page_size=16, num_blocks=1400, max_batch_tokens=528, max_requests_per_batch=16, use_async_batching=False
            ),
        )
        self._manager.output_router = self._outputs
        self._manager.start()

    def one_after_another(self, texts: list[str]) -> float:
        """Tokens per second with generate()."""
        began, made = perf_counter(), 0
        for ids in self._ids(texts):
            tensor = torch.tensor([ids])
            out = self._model.generate(tensor, attention_mask=torch.ones_like(tensor), generation_config=self._greedy)
            made += out.shape[1] - len(ids)
        return _speed(made, len(texts), perf_counter() - began)

    def at_once(self, texts: list[str]) -> float:
        """Tokens per second with the batching manager."""
        prompts = self._ids(texts)
        began, made, left = perf_counter(), 0, len(prompts)
        for ids in prompts:
            self._count += 1
            self._manager.add_request(ids, request_id=str(self._count), max_new_tokens=TOKENS, streaming=True)
        while left:
            output = self._outputs.queue.get(timeout=60)
            if output.is_finished():
                left -= 1
                made += len(output.generated_tokens)
        return _speed(made, len(texts), perf_counter() - began)

    def close(self) -> None:
        self._manager.stop(block=True)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [self._prompts.build(conversation([text]), TOKENS).ids for text in texts]


async def ours(platform: InstantPlatform, texts: list[str]) -> float:
    """Tokens per second through the service."""
    began = perf_counter()
    answers = await asyncio.gather(*(platform.ask(text) for text in texts))
    return _speed(sum(usage.generated_tokens for usage in answers), len(texts), perf_counter() - began)


def _speed(made: int, answers: int, seconds: float) -> float:
    if made != answers * TOKENS:
        raise SystemExit(f"{answers} answers took {made} tokens, not {TOKENS} each: they cannot be compared")
    return made / seconds


def show(label: str, serial: float, batched: float, through: float) -> None:
    """Prints one line of tokens per second."""
    print(
        f"{label:9}  generate() {serial:6.1f}   bare manager {batched:6.1f}   ours {through:6.1f}   tokens/s",
        flush=True,
    )


async def main() -> None:
    """Measures and prints."""
    given = options("bench.batching")
    bare = run_on_new_thread(lambda: Bare(str(given.model), given.plain))
    print(f"{CONVERSATIONS} conversations, {TOKENS} tokens each, {given.plain}, ours {given.dtype}")
    rows: list[tuple[float, float, float]] = []
    try:
        async with run_service(given.model, TOKENS, given.dtype) as platform:
            for number in range(ROUNDS + 1):  # the first round is a warm-up
                texts = questions(number)
                serial = await asyncio.to_thread(run_on_new_thread, partial(bare.one_after_another, texts))
                batched = await asyncio.to_thread(bare.at_once, texts)
                rows.append((serial, batched, await ours(platform, texts)))
                show(f"round {number}" if number else "warm-up", *rows[-1])
            lag = Lag()
            watching = asyncio.create_task(lag.watch())
            await ours(platform, questions(ROUNDS + 1) + questions(ROUNDS + 2))
            watching.cancel()
    finally:
        bare.close()
    show("median", *(median(column) for column in zip(*rows[1:], strict=True)))
    # Ratios within each round, because a machine's speed changes between rounds.
    by_serial = median(through / serial for serial, _, through in rows[1:])
    by_batched = median(through / batched for _, batched, through in rows[1:])
    print(f"ours / generate()     {by_serial:5.2f}   (the rounds' median; promised: at least 3.5)")
    print(f"ours / bare manager   {by_batched:5.2f}   (the rounds' median; promised: at least 0.95)")
    late = sorted(lag.seen)
    print(f"lag of the event loop with 16 answers: 99 % {late[int(len(late) * 0.99)] * 1000:.0f} ms, worst", end=" ")
    print(f"{late[-1] * 1000:.0f} ms   (promised: 99 % below 20)")


if __name__ == "__main__":
    asyncio.run(main())
