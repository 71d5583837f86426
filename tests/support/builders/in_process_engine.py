"""Runs a real model's generator in the test's process, so that a test can make a chosen step fail."""

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bot.engine.client.protocol import Failed, Text
from bot.engine.cpu.cpu_batch import CpuBatch
from bot.engine.gpu.flat_batch import FlatBatch
from bot.engine.gpu.paged_batch import PagedBatch
from bot.engine.server.answer import Answer, Generator, Meter
from bot.engine.server.batched_generator import Batching, BatchType, factory
from bot.engine.server.sequential_generator import Sequential
from bot.engine.text.decoding import TextDecoder
from bot.engine.text.prompts import PromptBuilder
from bot.types.messages import SamplingParams
from tests.support.builders.engine_requests import prompt

BATCHES: dict[str, BatchType] = {"rows": CpuBatch, "paged": PagedBatch, "flat": FlatBatch}
KINDS = ("rows", "paged", "flat", "sequential")
"""Our batch on a CPU, the library's paged batch and our flat one (both for a GPU; the tests run them on the CPU), and
generate().
"""
BLOCKS = 64


class Bench:
    """A generator whose main thread is the test's thread."""

    def __init__(self, path: Path, *, kind: str = "rows", blocks: int = BLOCKS, offload_mb: int = 0) -> None:
        """offload_mb: RAM for blocks that the KV cache evicts."""
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.texts: dict[int, str] = {}
        self.ends: dict[int, Text | Failed] = {}
        self.generator: Generator
        if kind == "sequential":
            self.generator = Sequential(self.model, self.inbox.put, self._emit)
        else:
            vocabulary = self.model.config.vocab_size
            start = factory(BATCHES[kind], offload_mb, lambda: None)
            self.generator = Batching(start, self.model, blocks, vocabulary, self.inbox.put, self._emit)

    def submit(self, stream: int, text: str, params: SamplingParams) -> None:
        """Starts an answer; `texts` and `ends` collect it by `stream`."""
        built = PromptBuilder(self.tokenizer, "", 512).build(prompt(text), params.max_tokens)
        eos = frozenset({self.tokenizer.eos_token_id})
        self.generator.submit(Answer(stream, built, params, TextDecoder(self.tokenizer), eos, Meter()))

    def run(self) -> None:
        """Runs until every answer has ended."""
        while self.generator.running:
            self.step()

    def step(self) -> None:
        """Runs the next piece of work on the main thread."""
        self.inbox.get(timeout=30)()

    def whole(self, stream: int, text: str, params: SamplingParams) -> str:
        """The model's whole answer to a text."""
        self.submit(stream, text, params)
        self.run()
        return self.texts[stream]

    def fail_in(self, steps: int, errors: list[Exception], before: Callable[[], None] | None = None) -> None:
        """Makes the forward pass raise each error in turn, with `steps` good steps before each.

        before: called on the main thread before it learns of an error.
        """
        left = steps

        def hook(module: object, args: object) -> None:
            nonlocal left
            left -= 1
            if left < 0 and errors:
                left = steps
                if before is not None:
                    self.inbox.put(before)
                raise errors.pop(0)

        self.model.register_forward_pre_hook(hook)

    def _emit(self, item: Text | Failed) -> None:
        if isinstance(item, Text):
            self.texts[item.stream] = self.texts.get(item.stream, "") + item.text
        if isinstance(item, Failed) or item.finish_reason is not None:
            assert item.stream not in self.ends, "an answer ended twice"
            self.ends[item.stream] = item
