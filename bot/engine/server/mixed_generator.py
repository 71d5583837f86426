"""Generates answers to text in a batch, and answers to pictures one at a time while the batch is empty.

First come, first served: a question with pictures waits until the running answers end, and later ones wait for it.
Runs on the engine's main thread.
"""

from collections import deque

from transformers import PreTrainedModel

from bot.engine.server.answer import Answer, Emit, abort_waiting
from bot.engine.server.batched_generator import Batching
from bot.engine.server.sequential_generator import Sequential


class Mixed:
    """A batch and a sequential generator of one model, of which one runs at a time, with its own attention."""

    seeds = False

    def __init__(self, model: PreTrainedModel, batch: Batching, alone: Sequential, emit: Emit) -> None:
        self._model, self._batch, self._alone, self._emit = model, batch, alone, emit
        self._batched = True  # which of them has the model
        self._attention = str(model.config._attn_implementation)  # the batch has set it
        self._waiting: deque[Answer] = deque()
        batch.on_left = alone.on_left = self._next

    @property
    def max_running(self) -> int:
        """Most answers generated at the same time."""
        return self._batch.max_running

    @property
    def cache_tokens(self) -> int | None:
        """Capacity of the batch's KV cache in tokens."""
        return self._batch.cache_tokens

    @property
    def offload_mb(self) -> int:
        """Most RAM (MB) for evicted KV cache blocks."""
        return self._batch.offload_mb

    @property
    def offloaded_mb(self) -> int:
        """RAM (MB) allocated so far for evicted KV cache blocks."""
        return self._batch.offloaded_mb

    @property
    def running(self) -> int:
        """Number of answers that generate or wait."""
        return len(self._waiting) + self._batch.running + self._alone.running

    def submit(self, answer: Answer) -> None:
        """Queue an answer and start it if nothing is before it."""
        self._waiting.append(answer)
        self._next()

    def abort(self, stream: int) -> None:
        """Stop an answer: immediately if it waits, else at the next step boundary."""
        if abort_waiting(self._waiting, stream, self._emit):
            self._next()
            return
        self._batch.abort(stream)
        self._alone.abort(stream)

    def blocks(self) -> tuple[int, int]:
        """(free, total) blocks of the batch's KV cache."""
        return self._batch.blocks()

    def close(self) -> None:
        """Stop both immediately."""
        self._waiting.clear()
        self._alone.close()
        self._batch.close()

    def _next(self) -> None:
        """Start what waits, in order, as far as the model is free for it."""
        while self._waiting:
            batched = not self._waiting[0].prompt.pictures
            before, chosen = (self._alone, self._batch) if batched else (self._batch, self._alone)
            if before.running or (self._alone.running and not batched):
                return
            if batched is not self._batched:
                self._model.set_attn_implementation(self._attention if batched else "sdpa")
                self._batched = batched
            chosen.submit(self._waiting.popleft())
