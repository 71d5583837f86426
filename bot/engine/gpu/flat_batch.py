"""Implements Batch on a GPU with our own code: rows in one flat buffer, FlashAttention over them, and CUDA graphs.

What a model or a GPU cannot do is left out, in this order: the fast kernel's split of the keys, FlashAttention, CUDA
graphs (all, or those of large steps that memory does not allow). Each choice is tried before it is used: the logits
must be those of the model's own attention, and a graph's logits those of the same step without it. CannotBatch if
nothing gives the same logits.

It is used with INHOUSE_GPU_BATCH=rows only, until it was measured on a GPU (`bench.gpu`).
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bot.engine.batching.batch import CannotBatch, Listener, as_exception
from bot.engine.batching.fused_norms import fuse_norms, one_kernel, restore_norms
from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.batching.row_batch import BatchRequest, RowBatch, SequenceChunk, agrees
from bot.engine.batching.row_cache import BLOCK, shape_of
from bot.engine.gpu.cuda_graphs import Capture, CudaGraphs, Replay
from bot.engine.gpu.device_sampler import DeviceSampler, SampledRow
from bot.engine.gpu.flat_attention import NAME, Kernel, Step, has_flash_attention
from bot.engine.gpu.flat_cache import FlatCache, FlatSequence
from bot.engine.gpu.flat_step import (
    MAX_DRAFT_TOKENS,
    MAX_ROWS,
    MOST_TOKENS,
    STEP_SIZES,
    Chunk,
    FlatStep,
    StepSize,
    size_of,
)
from bot.models.device_errors import Failure, classify

log = logging.getLogger(__name__)

MB = 1 << 20
TRIAL = ((16, 40), (9, 20), (5, 3))
"""Lengths and starts of the rows of the comparison: mixed lengths, in descending order, within one block."""
TRIAL_STEPS = ((10, 4, 1), (1, 1, 1), (3, 1, 2), (2, 3, 1))
"""Tokens of each row in the steps of the comparison."""


@dataclass(slots=True)
class GraphLimit:
    """Most tokens of a step that is captured. A batch that replaces one which ran out of memory captures less."""

    tokens: int = MOST_TOKENS

    def lower(self) -> None:
        """Leave out the largest graphs; below those of decode steps, all of them."""
        self.tokens = MAX_ROWS if self.tokens > MAX_ROWS else 0


class FlatRunner:
    """Runs the steps of a FlatBatch."""

    most_tokens = MOST_TOKENS
    most_drafts = MAX_DRAFT_TOKENS

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: int,
        vocabulary: int,
        offload: int,
        kernels: Sequence[Kernel],
        capture: Capture | None,
        limit: int,
        stepped: Callable[[], None],
    ) -> None:
        """offload: bytes of RAM. kernels: those to try, in order. limit: most tokens of a captured step.

        Raises CannotBatch, MemoryError or Unrecoverable.
        """
        if getattr(model.config.get_text_config(), "attention_chunk_size", None):
            raise CannotBatch("tokens see their own chunk only, which shows in no short text")
        self._model, self._vocabulary, self._stepped = model, vocabulary, stepped
        self.cache = FlatCache(shape_of(model), blocks, model.device, offload)
        self._sampler = DeviceSampler(MAX_ROWS, vocabulary, model.device)
        self._places: dict[str, int] = {}
        self._longest = min(self.cache.unused_slot, _window(model))
        self.steps = {size: FlatStep(size, self.cache) for size in STEP_SIZES}
        self._replays: dict[StepSize, Replay] = {}
        with torch.inference_mode():
            self.kernel = self._choose(kernels)
            if capture is not None and self.kernel is not Kernel.BY_ROW:
                self._capture(capture, limit)

    @property
    def captured(self) -> list[StepSize]:
        """The step sizes that run as graphs."""
        return list(self._replays)

    def begin(self, request: BatchRequest[FlatSequence]) -> None:
        self._places[request.key] = self._sampler.begin(request.sampler, request.prompt)

    def end(self, request: BatchRequest[FlatSequence]) -> None:
        self._sampler.end(self._places.pop(request.key))

    def run(self, plan: Sequence[tuple[BatchRequest[FlatSequence], Chunk]]) -> list[int]:
        chunks = [chunk for _, chunk in plan]
        size = size_of(chunks)
        self.steps[size].fill(chunks)
        logits = self.replay(size) if size in self._replays else self.compute(size)
        for chunk in chunks:
            chunk.row.ids += chunk.ids
        rows = [
            SampledRow(self._places[request.key], request.ids, request.draft[:right])
            for request, chunk in plan
            for right in range(chunk.wanted)
        ]
        if rows:
            return self._sampler.sample(logits[: len(rows)], rows)
        if logits.is_cuda:  # the next step overwrites what this one copies to the device
            torch.cuda.current_stream(logits.device).synchronize()
        return []

    def rest(self) -> None:
        return None

    def close(self) -> None:
        self._replays.clear()
        self.steps.clear()
        cpu = torch.device("cpu")
        self.cache, self._sampler = FlatCache(shape_of(self._model), 0, cpu), DeviceSampler(0, 0, cpu)

    def compute(self, size: StepSize) -> Tensor:
        """Run the model over the inputs of a step: logits, float32 [wanted, vocabulary]."""
        inputs = self.steps[size]
        whole: Any = self._model  # forward takes keywords that the class does not declare
        output = whole(
            input_ids=inputs.ids.unsqueeze(0),
            position_ids=inputs.positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=inputs.wanted,
            step=Step(self.kernel, self._longest, inputs),
        )
        logits: Tensor = output.logits[0].float()
        return logits if len(logits) == size.wanted else logits[inputs.wanted]  # some models ignore logits_to_keep

    def replay(self, size: StepSize) -> Tensor:
        """Replay the graph of a captured step over its inputs; returns what `compute` does."""
        self._replays[size].replay()
        self._stepped()  # the model's own hooks do not run in a replay
        return self._replays[size].output

    def _choose(self, kernels: Sequence[Kernel]) -> Kernel:
        """Return the first kernel that gives the model's own logits, with the model set to it."""
        model: Any = self._model
        model.set_attn_implementation("sdpa")
        restore_norms(self._model)
        texts = [[7 * place % self._vocabulary for place in range(length)] for length, _ in TRIAL]
        try:
            expected = [
                model(input_ids=torch.tensor([text], device=model.device), use_cache=False).logits[0].float()
                for text in texts
            ]
            if expected[0].size(-1) != self._vocabulary:
                raise ValueError("its logits are not those of its vocabulary")
            model.set_attn_implementation(NAME)
            fuse_norms(self._model, one_kernel)
            for self.kernel in kernels:
                if self._agrees(texts, expected):
                    return self.kernel
            raise ValueError("its logits differ with our attention")
        except Exception as error:  # the model's code may raise anything
            model.set_attn_implementation("sdpa")
            restore_norms(self._model)
            raise as_exception(classify(error)) from None

    def _agrees(self, texts: Sequence[Sequence[int]], expected: Sequence[Tensor]) -> bool:
        """Whether a few steps give the expected logits. Raises out-of-memory errors and those of a lost device."""
        rows = [FlatSequence(BLOCK, start=start, size=len(text)) for text, (_, start) in zip(texts, TRIAL, strict=True)]
        try:
            for counts in TRIAL_STEPS:
                chunks = [
                    SequenceChunk(row, text[len(row.ids) : len(row.ids) + count])
                    for row, text, count in zip(rows, texts, counts, strict=True)
                ]
                self.steps[size_of(chunks)].fill(chunks)
                found = self.compute(size_of(chunks))
                for chunk in chunks:
                    chunk.row.ids += chunk.ids
                wanted = torch.stack([own[len(row.ids) - 1] for own, row in zip(expected, rows, strict=True)])
                if not agrees(found[: len(rows)], wanted):
                    return False
        except Exception as error:
            failure = classify(error)
            if failure.memory or failure.device_lost or self.kernel is Kernel.BY_ROW:
                raise
            log.warning("attention '%s' failed: %s", self.kernel.value, failure.why)
            return False
        return True

    def _capture(self, capture: Capture, limit: int) -> None:
        """Capture the step sizes of at most `limit` tokens. Raises MemoryError or Unrecoverable."""
        for size in sorted(STEP_SIZES, key=lambda size: (-size.tokens, size.decode)):
            if size.tokens > limit:
                continue
            run = partial(self.compute, size)
            first, second = (trial_chunks(size, self.cache.unused_slot, self._vocabulary, shift) for shift in (0, 1))
            self.steps[size].fill(first)
            if not capture.has_room(run):
                log.warning("no memory for the CUDA graph of %d tokens", size.tokens)
                continue
            try:
                capture.check(run)
            except RuntimeError as error:
                failure = classify(error)
                if failure.memory or failure.device_lost:
                    raise as_exception(failure) from None
                log.warning("the model cannot run in CUDA graphs: %s", failure.why)
                return
            replay = capture.capture(run)
            self.steps[size].fill(second)
            expected = run()[: len(second)].clone()
            replay.replay()
            if not agrees(replay.output[: len(second)], expected):
                log.warning("a CUDA graph gives other logits than the same step without it, so none is used")
                self._replays.clear()
                return
            self._replays[size] = replay


class FlatBatch(RowBatch[FlatSequence]):
    """A Batch over a KV cache of `blocks` blocks on a GPU."""

    max_running = MAX_ROWS

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: int,
        vocabulary: int,
        prefill_budget: PrefillBudget,
        listener: Listener,
        offload_mb: int = 0,
        *,
        limit: GraphLimit | None = None,
        kernels: Sequence[Kernel] = (),
        capture: Capture | None = None,
        stepped: Callable[[], None] = lambda: None,
    ) -> None:
        """offload_mb: RAM for evicted rows. kernels: those to try, () for what the device has. capture: None for CUDA
        graphs, if there is a GPU. stepped: called for each step that runs as a graph.

        Raises CannotBatch, MemoryError or Unrecoverable.
        """
        self._limit = limit or GraphLimit()
        self.offload_mb = offload_mb
        flash = has_flash_attention(model.device, shape_of(model))
        self.runner = FlatRunner(
            model,
            blocks,
            vocabulary,
            offload_mb * MB,
            kernels or (tuple(Kernel) if flash else (Kernel.BY_ROW,)),
            capture or (CudaGraphs(model.device) if model.device.type == "cuda" else None),
            self._limit.tokens,
            stepped,
        )
        super().__init__(self.runner, vocabulary, prefill_budget, listener)

    @property
    def offloaded_mb(self) -> int:
        return self.runner.cache.offload.taken // MB

    def take_failure(self) -> Failure:
        failure = super().take_failure()
        if failure.memory:
            self._limit.lower()
        return failure


def trial_chunks(size: StepSize, slots: int, vocabulary: int, shift: int) -> list[Chunk]:
    """Return chunks for a size, whose rows begin at other slots and have other lengths for another `shift`."""
    if size.decode:
        each = slots // size.rows
        rows = [
            FlatSequence(each, [1] * ((place + shift) % each), start=(size.rows - 1 - place) * each, size=each)
            for place in range(size.rows)
        ]
        return [SequenceChunk(row, [place % vocabulary]) for place, row in enumerate(rows)]
    tokens = min(size.tokens - 4 - shift, slots - 8)
    long, short = FlatSequence(slots, start=8, size=slots - 8), FlatSequence(8, [1, 2], start=shift, size=7)
    ids = [7 * place % vocabulary for place in range(tokens)]
    return [SequenceChunk(long, ids), SequenceChunk(short, [vocabulary - 1])]


def _window(model: PreTrainedModel) -> int:
    """Return the most tokens of a sequence, by the model's config."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or sys.maxsize)
