"""When the library's batch dies under us, on a real model whose forward is made to fail: what becomes of answers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bot.engine.answers import Answer, Meter
from bot.engine.batching import Batching, Unrecoverable
from bot.engine.decoding import TextDecoder
from bot.engine.prompts import PromptBuilder
from bot.engine.protocol import Failed, Text
from bot.messages import FinishReason, SamplingParams
from tests.engine_harness import GREEDY, prompt

pytest_plugins = ["tests.engine_fixtures"]


class Bench:
    """A batch in this process, its main thread being the test's."""

    def __init__(self, path: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.texts: dict[int, str] = {}
        self.ends: dict[int, Text | Failed] = {}
        self.batching = Batching(self.model, 64, self.model.config.vocab_size, self.inbox.put, self._emit)

    def submit(self, stream: int, text: str, params: SamplingParams) -> None:
        built = PromptBuilder(self.tokenizer, "", 512).build(prompt(text), params.max_tokens)
        eos = frozenset({self.tokenizer.eos_token_id})
        self.batching.submit(Answer(stream, built, params, TextDecoder(self.tokenizer), eos, Meter()))

    def run(self) -> None:
        """Until every answer ended."""
        while self.batching.running:
            self.inbox.get(timeout=30)()

    def fail_in(self, steps: int, errors: list[Exception], before: Callable[[], None] | None = None) -> None:
        """Let the forward after so many raise the next error; each error is followed by as many good steps again.

        before: is called on the main thread before it hears of an error.
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


@pytest.fixture
def bench(tiny: dict[str, Path]) -> Iterator[Bench]:
    bench = Bench(tiny["llama"])
    yield bench
    bench.batching.close()


PARAMS = replace(GREEDY, repetition_penalty=1.1)


def whole(bench: Bench, stream: int, text: str) -> str:
    """What the model says when nothing fails."""
    bench.submit(stream, text, PARAMS)
    bench.run()
    return bench.texts[stream]


def test_after_a_failed_step_the_running_answers_fail_and_new_ones_are_given(bench: Bench) -> None:
    expected = whole(bench, 1, "Who wrote this?")
    bench.fail_in(5, [RuntimeError("something inside broke")])
    bench.submit(2, "Who wrote this?", PARAMS)
    bench.submit(3, "Where are the keys?", PARAMS)
    bench.run()
    assert [bench.ends[stream] for stream in (2, 3)] == [
        Failed(stream, "The model failed on this answer: something inside broke.") for stream in (2, 3)
    ]
    assert whole(bench, 4, "Who wrote this?") == expected
    free, blocks = bench.batching.blocks()
    assert free == blocks


@pytest.mark.fault(26)
def test_out_of_memory_once_costs_nobody_the_answer(bench: Bench) -> None:
    expected = [whole(bench, 1, "Who wrote this?"), whole(bench, 2, "Where are the keys?")]
    bench.fail_in(5, [torch.OutOfMemoryError("no room")])
    bench.submit(3, "Who wrote this?", PARAMS)
    bench.submit(4, "Where are the keys?", PARAMS)
    bench.run()
    assert [bench.texts[3], bench.texts[4]] == expected


@pytest.mark.fault(26)
def test_out_of_memory_twice_fails_that_answer_alone(bench: Bench) -> None:
    expected = whole(bench, 1, "Where are the keys?")
    bench.fail_in(5, [torch.OutOfMemoryError("no room"), torch.OutOfMemoryError("no room")])
    bench.submit(2, "Who wrote this?", PARAMS)
    bench.submit(3, "Where are the keys?", PARAMS)
    bench.run()
    assert bench.ends[2] == Failed(2, "The model failed on this answer: out of memory, even alone.")
    assert bench.texts[3] == expected


def test_an_abort_that_comes_with_the_death_is_an_abort(bench: Bench) -> None:
    bench.fail_in(5, [torch.OutOfMemoryError("no room")], before=lambda: bench.batching.abort(1))
    bench.submit(1, "Who wrote this?", PARAMS)
    bench.run()
    end = bench.ends[1]
    assert isinstance(end, Text)
    assert end.finish_reason is FinishReason.ABORT


def test_a_broken_device_ends_the_process(bench: Bench) -> None:
    bench.fail_in(3, [torch.AcceleratorError("an illegal memory access was encountered", 700)])
    bench.submit(1, "Who wrote this?", PARAMS)
    with pytest.raises(Unrecoverable, match="illegal memory access"):
        bench.run()
