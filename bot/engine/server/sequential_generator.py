"""Generates one answer at a time with generate(), for models that cannot batch and for seeds.

generate() runs on its own thread, one call at a time, and posts tokens to the engine's main thread. A stop string or an
abort stops it at the next token. There is no prefix cache: each prompt is computed in full. Callers validate parameters
and prompts first.

After an out-of-memory error it frees memory, generates one token as a probe, and retries the answer once from where it
stopped. A CUDA error raises Unrecoverable: the process must be replaced.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from threading import Event, Thread
from time import perf_counter
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from bot.engine.client.protocol import Failed
from bot.engine.client.request_validation import GREEDY_BELOW
from bot.engine.server.answer import Answer, Emit, Post, abort_waiting
from bot.engine.server.compute_threads import run_on_new_thread
from bot.models.device_errors import Failure, Unrecoverable, classify, release_memory
from bot.models.picture_processor import PictureProcessor
from bot.types.messages import FinishReason, Picture, SamplingParams

log = logging.getLogger(__name__)


class Sequential:
    """A generator that runs one request at a time; the others wait in order."""

    seeds = True
    max_running = 1
    cache_tokens: int | None = None
    offload_mb = offloaded_mb = 0

    def __init__(
        self,
        model: PreTrainedModel,
        post: Post,
        emit: Emit,
        make_room: Callable[[], None] = release_memory,
        pictures: PictureProcessor | None = None,
    ) -> None:
        self._model, self._pictures = model, pictures
        # generate() would add what the repository advises, such as beams, and a batch would not.
        model.generation_config = GenerationConfig(eos_token_id=getattr(model.generation_config, "eos_token_id", None))
        self.on_left: Callable[[], None] = _ignore
        """Called when an answer has left."""
        self._post = post
        self._emit = emit
        self._make_room = make_room
        self._waiting: deque[Answer] = deque()
        self._current: Answer | None = None
        self._stop = Event()
        self._thread: Thread | None = None

    @property
    def running(self) -> int:
        """Number of answers that generate or wait."""
        return len(self._waiting) + (self._current is not None)

    def submit(self, answer: Answer) -> None:
        """Queue an answer and start it if none is running."""
        self._waiting.append(answer)
        self._next()

    def abort(self, stream: int) -> None:
        """Stop an answer: immediately if it waits, else at the next token."""
        if abort_waiting(self._waiting, stream, self._emit):
            return
        if self._current is not None and self._current.stream == stream:
            self._current.aborted = True
            self._stop.set()

    def blocks(self) -> tuple[int, int]:
        """Return (0, 0): generate() has its own cache without blocks."""
        return 0, 0

    def close(self) -> None:
        """Stop the running answer and wait for its thread."""
        self._waiting.clear()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _next(self) -> None:
        if self._current is not None or not self._waiting:
            return
        answer = self._current = self._waiting.popleft()
        answer.started_at = answer.started_at or perf_counter()
        self._stop = Event()
        self._thread = Thread(target=self._generate, args=(answer, self._stop), name="generate")
        self._thread.start()

    def _generate(self, answer: Answer, stop: Event) -> None:
        """Generation thread: run generate() once and post the outcome."""
        said, limit, known = answer.tokens, answer.left, 0
        if answer.params.seed is not None:  # a retry starts over and skips known tokens
            said, limit, known = [], answer.params.most_tokens, len(answer.tokens)
        streamer = _Tokens(lambda token: self._post(partial(self._on_token, answer, token, perf_counter())), known)
        failure: Failure | None = None
        try:
            if answer.params.seed is not None:
                torch.manual_seed(answer.params.seed)
            ids = torch.tensor([[*answer.prompt.ids, *said]], device=self._model.device)
            shown = self._inputs(answer.prompt.pictures, [*answer.prompt.ids, *said])
            cast(Any, self._model).generate(  # its signature is not typed
                ids,
                attention_mask=torch.ones_like(ids),
                **shown,
                generation_config=generation_config(replace(answer.params, max_tokens=limit), answer.eos),
                logits_processor=_penalties(answer),
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([_Stopped(stop)]),
            )
        except Exception as error:  # anything the model raises is this answer's failure
            failure = classify(error)
        self._post(partial(self._on_done, answer, failure))

    def _inputs(self, pictures: Sequence[Picture], ids: Sequence[int]) -> dict[str, torch.Tensor]:
        """The inputs for pictures, on the model's device."""
        if self._pictures is None:
            return {}
        made = self._pictures.inputs(pictures, ids)
        dtype = self._model.dtype
        return {
            name: value.to(self._model.device, dtype if value.is_floating_point() else value.dtype)
            for name, value in made.items()
        }

    def _on_token(self, answer: Answer, token: int, at: float) -> None:
        if answer.ended or answer.aborted:
            return
        delta = answer.push([token], at)
        reason = answer.reason()
        if reason is not None:
            self._emit(answer.end(delta, reason))
            self._stop.set()
        elif delta is not None:
            self._emit(delta)

    def _on_done(self, answer: Answer, failure: Failure | None) -> None:
        if failure is not None:
            self._recover(failure)
        if answer.ended:
            pass
        elif failure is None or answer.aborted:
            self._emit(answer.end(None, FinishReason.ABORT))
        elif failure.memory and not answer.retried:
            answer.retried = True
            self._waiting.appendleft(answer)
        else:
            answer.ended = True
            self._emit(Failed(answer.stream, failure.sentence))
        self._current = None
        self._next()
        self.on_left()

    def _recover(self, failure: Failure) -> None:
        """Check that the model can still generate; free memory if it ran out. Raises Unrecoverable."""
        if failure.device_lost:
            raise Unrecoverable(failure.why)
        log.error("generate() failed: %s", failure.why)
        if not failure.memory:
            return
        if self._thread is not None:
            self._thread.join()  # frees the tensors of its frames
        self._make_room()
        try:
            run_on_new_thread(self._one_token)
        except Exception as error:
            raise Unrecoverable(f"nothing can be generated after that: {error}") from error

    def _one_token(self) -> None:
        with torch.inference_mode():
            self._model(torch.zeros((1, 1), dtype=torch.long, device=self._model.device))


def generation_config(params: SamplingParams, eos: frozenset[int]) -> GenerationConfig:
    """Build a GenerationConfig that picks tokens as the batch does."""
    warm = params.temperature >= GREEDY_BELOW
    settings: dict[str, object] = {"do_sample": warm, "max_new_tokens": params.max_tokens, "top_k": 0}
    if warm:
        settings |= {"temperature": float(params.temperature), "top_p": float(params.top_p), "top_k": params.top_k}
        settings |= {"min_p": float(params.min_p)} if params.min_p else {}
    if eos:
        settings |= {"eos_token_id": sorted(eos), "pad_token_id": min(eos)}
    return GenerationConfig(repetition_penalty=float(params.repetition_penalty), **settings)


class PresencePenalty(LogitsProcessor):
    """Subtracts a penalty from the logits of tokens that the answer already has. prompt: its length in tokens."""

    def __init__(self, penalty: float, prompt: int) -> None:
        self._penalty, self._prompt = penalty, prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        said = input_ids[:, self._prompt :]
        return scores.scatter(1, said, scores.gather(1, said) - self._penalty)


def _penalties(answer: Answer) -> LogitsProcessorList:
    """The processors that GenerationConfig has no parameter for."""
    if not answer.params.presence_penalty:
        return LogitsProcessorList()
    return LogitsProcessorList([PresencePenalty(answer.params.presence_penalty, len(answer.prompt.ids))])


def _ignore() -> None:
    pass


class _Tokens(BaseStreamer):
    """Streamer that forwards every new token; skips the prompt, which generate() sends first."""

    def __init__(self, take: Callable[[int], None], known: int) -> None:
        """known: how many of the first tokens to skip, because they were sent before a retry."""
        self._take = take
        self._known = known
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
        elif self._known:
            self._known -= 1
        else:
            self._take(int(value.flatten()[-1]))

    def end(self) -> None:
        return None


class _Stopped(StoppingCriteria):
    """Stopping criterion that is true for every row once the event is set."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        stopped = torch.full((input_ids.shape[0],), self._event.is_set(), dtype=torch.bool, device=input_ids.device)
        return cast(torch.BoolTensor, stopped)
