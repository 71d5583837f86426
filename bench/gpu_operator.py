"""Checks A and C of `bench.gpu`: whether torch's FlashAttention is right over row offsets, and what `max_k` costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bench.gpu_clock import replay_ms
from bot.engine.batching.row_batch import SequenceChunk
from bot.engine.batching.row_cache import BLOCK, Shape, blocks_for
from bot.engine.gpu.cuda_graphs import Capture
from bot.engine.gpu.flat_attention import Kernel, Step, attend
from bot.engine.gpu.flat_cache import FlatCache, FlatSequence
from bot.engine.gpu.flat_step import Chunk, FlatStep, size_of
from tests.support.builders.flash_attention import flash_attention

TOLERANCE = 0.02
"""Most difference from the same attention in float32, with values of about 1 in bfloat16."""
LENGTHS = (128, 1024, 4096, 16_384)
ROWS = (1, 8, 32)
NARROW = 1024
"""The smaller of the two bounds of the keys that are compared."""
CALLS = 20


@dataclass(frozen=True, slots=True)
class Case:
    """Attention of one shape over rows with so many keys before the step, and new tokens in it."""

    name: str
    heads: int
    key_heads: int
    width: int
    window: int | None
    rows: Sequence[tuple[int, int]]


DECODE = [(before, 1) for before in (700, 0, 63, 2000, 129, 5)]
OTHER = [(before + 97, 1) for before, _ in reversed(DECODE)]
MIXED = [(0, 70), (500, 1), (1, 1), (300, 25), (64, 1)]
CASES = (
    Case("one token a row, 40/10 heads of 128", 40, 10, 128, None, DECODE),
    Case("one token a row, 32/32 heads of 96", 32, 32, 96, None, DECODE),
    Case("one token a row, 8/4 heads of 256, window 512", 8, 4, 256, 512, DECODE),
    Case("mixed, 40/10 heads of 128", 40, 10, 128, None, MIXED),
    Case("mixed, 32/32 heads of 96", 32, 32, 96, None, MIXED),
    Case("mixed, 8/4 heads of 256, window 512", 8, 4, 256, 512, MIXED),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """kernels: those that are right everywhere, the fastest first. worst: the largest difference of each kernel."""

    kernels: tuple[Kernel, ...]
    worst: dict[Kernel, float]
    wrong: tuple[str, ...]


class Operator:
    """The attention of one case, over a cache whose unused slots hold NaN."""

    def __init__(self, case: Case, kernel: Kernel, device: torch.device, longest: int = 4096) -> None:
        self._case, self._kernel, self._longest = case, kernel, longest
        room = sum(blocks_for(before + new) for before, new in (*case.rows, *OTHER)) + 4
        self.cache = FlatCache(Shape(1, case.key_heads, case.width, torch.bfloat16), room, device)
        self._chunks = self._rows(case.rows)
        self._inputs = FlatStep(size_of(self._chunks), self.cache)
        drawn = torch.Generator(device).manual_seed(1)
        sizes = [(1, heads, self._inputs.size.tokens, case.width) for heads in (case.heads, *[case.key_heads] * 2)]
        self._new = [torch.randn(size, generator=drawn, device=device).bfloat16() for size in sizes]
        self.fill(case.rows)

    def fill(self, rows: Sequence[tuple[int, int]]) -> None:
        """Gives the rows other lengths and places. The number of tokens must fit the same step size."""
        self._chunks = self._rows(rows)
        self.cache.held.fill_(torch.nan)
        for chunk in self._chunks:
            held = self.cache.held_by(chunk.row)[:, : len(chunk.row.ids)]
            held.copy_(torch.randn(held.shape, device=held.device))
        self._inputs.fill(self._chunks)

    def run(self) -> Tensor:
        """The operator's output, [1, tokens, heads, width]."""
        step: Any = Step(self._kernel, self._longest, self._inputs)
        layer: Any = SimpleNamespace(layer_idx=0)
        query, key, value = self._new
        return attend(layer, query, key, value, None, step=step, sliding_window=self._case.window)[0]

    def difference(self, output: Tensor) -> float:
        """The largest difference of an output from the same attention in float32; infinite for NaN."""
        inputs, keys, values = self._inputs, *(layer.float() for layer in self.cache.layers)
        decode, window = inputs.size.decode, self._case.window
        expected = flash_attention(
            self._new[0][0].transpose(0, 1).float(),
            keys,
            values,
            inputs.ends,
            inputs.starts,
            inputs.size.tokens,
            self._longest,
            0.0,
            not decode,
            False,
            window_size_left=-1 if window is None else window - 1,
            window_size_right=0,
            seqused_k=inputs.used,
        )[0]
        used = sum(len(chunk.ids) for chunk in self._chunks)
        worst = float((output[0, :used].float() - expected[:used]).abs().max())
        return worst if worst == worst else float("inf")

    def _rows(self, rows: Sequence[tuple[int, int]]) -> list[Chunk]:
        """Chunks of rows that lie in descending order, with free space between them."""
        chunks, end = [], self.cache.unused_slot
        for before, new in rows:
            size = blocks_for(before + new) * BLOCK
            end -= size + 3  # so that rows begin at any slot
            row = FlatSequence(size, [1] * before, start=end, size=size)
            chunks.append(SequenceChunk(row, [2] * new))
        return chunks


def check_operator(device: torch.device, capture: Capture, cases: Sequence[Case] = CASES) -> Verdict:
    """Check A: compares the operator with float32, directly and in graphs that are replayed for other rows."""
    worst, wrong = {Kernel.SPLIT: 0.0, Kernel.WHOLE: 0.0}, list[str]()
    for kernel in worst:
        for case in cases:
            operator = Operator(case, kernel, device)
            found = [operator.difference(operator.run())]
            replay = capture.capture(operator.run)
            operator.fill(OTHER[: len(case.rows)] if case.rows == DECODE else MIXED[::-1])
            replay.replay()
            found.append(operator.difference(replay.output))
            worst[kernel] = max(worst[kernel], *found)
            if max(found) > TOLERANCE:
                wrong.append(f"{case.name} ({kernel.value}): {found[0]:.3f}, in a graph {found[1]:.3f}")
    return Verdict(tuple(kernel for kernel in worst if worst[kernel] <= TOLERANCE), worst, tuple(wrong))


def cost_of_bound(
    device: torch.device, capture: Capture, kernel: Kernel, lengths: Sequence[int] = LENGTHS, rows: Sequence[int] = ROWS
) -> list[tuple[int, int, float, float]]:
    """Check C: for each number of rows and length, ms of a call with the longest bound, and with NARROW keys."""
    found = []
    for number in rows:
        for length in lengths:
            case = Case("decode", 40, 10, 128, None, [(length - 1, 1)] * number)
            times = []
            for bound in (max(lengths), max(NARROW, length)):
                operator = Operator(case, kernel, device, bound)
                replay = capture.capture(partial(_repeated, operator))
                times.append(replay_ms(replay, device) / CALLS)
            found.append((number, length, times[0], times[1]))
    return found


def _repeated(operator: Operator) -> Tensor:
    """Calls an operator CALLS times, so that a graph of it lasts longer than its launch."""
    return [operator.run() for _ in range(CALLS)][-1]
