"""One answer after another with generate(), for models that cannot batch, and for seeds.

In and out as in batching: answers that passed the guards, deltas through `emit`. generate() runs in a thread of its
own, one call at a time; tokens are posted to the engine's main thread as they come. A stop string and an abort end it
at the next token. There is no prefix cache: every prompt is computed from its beginning.

Out of memory, what can be given back is given back, one token is tried, and the answer goes on once more from where it
was. A CUDA error is raised as Unrecoverable, and the process must go.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Event, Thread
from time import perf_counter
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from bot.engine.client.protocol import Failed
from bot.engine.client.request_validation import GREEDY_BELOW
from bot.engine.cpu.compute_threads import apart
from bot.engine.server.generation import Answer, Emit, Post
from bot.models.device_errors import Failure, Unrecoverable, give_back, judge
from bot.types.messages import FinishReason, SamplingParams

log = logging.getLogger(__name__)


class Sequential:
    """A loaded model that answers one request at a time; the others wait in order."""

    seeds = True
    max_running = 1
    cache_tokens: int | None = None
    offload_mb = offloaded_mb = 0

    def __init__(
        self, model: PreTrainedModel, post: Post, emit: Emit, make_room: Callable[[], None] = give_back
    ) -> None:
        self._model = model
        self._post = post
        self._emit = emit
        self._make_room = make_room
        self._waiting: deque[Answer] = deque()
        self._current: Answer | None = None
        self._stop = Event()
        self._thread: Thread | None = None

    @property
    def running(self) -> int:
        """Answers that are generated or wait."""
        return len(self._waiting) + (self._current is not None)

    def submit(self, answer: Answer) -> None:
        """Generate it now or in its turn."""
        self._waiting.append(answer)
        self._next()

    def abort(self, stream: int) -> None:
        """End it: at once if it waits, else at the next token."""
        for answer in self._waiting:
            if answer.stream == stream:
                self._waiting.remove(answer)
                self._emit(answer.end("", FinishReason.ABORT))
                return
        if self._current is not None and self._current.stream == stream:
            self._current.aborted = True
            self._stop.set()

    def blocks(self) -> tuple[int, int]:
        """No blocks: the cache is generate()'s own."""
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
        """In the thread: one call of generate(), whatever comes of it."""
        said, limit, known = answer.tokens, answer.left, 0
        if answer.params.seed is not None:  # it repeats what was said: from the beginning, unheard
            said, limit, known = [], answer.params.max_tokens, len(answer.tokens)
        streamer = _Tokens(lambda token: self._post(partial(self._on_token, answer, token, perf_counter())), known)
        failure: Failure | None = None
        try:
            if answer.params.seed is not None:
                torch.manual_seed(answer.params.seed)
            ids = torch.tensor([[*answer.prompt.ids, *said]], device=self._model.device)
            cast(Any, self._model).generate(  # its signature is not typed
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=generation_config(replace(answer.params, max_tokens=limit), answer.eos),
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([_Stopped(stop)]),
            )
        except Exception as error:  # anything the model raises is this answer's failure
            failure = judge(error)
        self._post(partial(self._on_done, answer, failure))

    def _on_token(self, answer: Answer, token: int, at: float) -> None:
        if answer.ended or answer.aborted:
            return
        text = answer.push([token], at)
        reason = answer.reason()
        if reason is not None:
            self._emit(answer.end(text, reason))
            self._stop.set()
        elif text:
            self._emit(answer.delta(text))

    def _on_done(self, answer: Answer, failure: Failure | None) -> None:
        if failure is not None:
            self._recover(failure)
        if answer.ended:
            pass
        elif failure is None or answer.aborted:
            self._emit(answer.end("", FinishReason.ABORT))
        elif failure.memory and not answer.retried:
            answer.retried = True
            self._waiting.appendleft(answer)
        else:
            answer.ended = True
            self._emit(Failed(answer.stream, failure.sentence))
        self._current = None
        self._next()

    def _recover(self, failure: Failure) -> None:
        """Make sure that the next answer can be given. Raises Unrecoverable."""
        if failure.device_lost:
            raise Unrecoverable(failure.why)
        log.error("generate() failed: %s", failure.why)
        if not failure.memory:
            return
        if self._thread is not None:
            self._thread.join()  # what its frames held is let go of
        self._make_room()
        try:
            apart(self._one_token)
        except Exception as error:
            raise Unrecoverable(f"nothing can be generated after that: {error}") from error

    def _one_token(self) -> None:
        with torch.inference_mode():
            self._model(torch.zeros((1, 1), dtype=torch.long, device=self._model.device))


def generation_config(params: SamplingParams, eos: frozenset[int]) -> GenerationConfig:
    """What generate() needs to pick tokens as the batch would."""
    warm = params.temperature >= GREEDY_BELOW
    settings: dict[str, object] = {"do_sample": warm, "max_new_tokens": params.max_tokens, "top_k": 0}
    if warm:
        settings |= {"temperature": float(params.temperature), "top_p": float(params.top_p), "top_k": params.top_k}
    if eos:
        settings |= {"eos_token_id": sorted(eos), "pad_token_id": min(eos)}
    return GenerationConfig(repetition_penalty=float(params.repetition_penalty), **settings)


class _Tokens(BaseStreamer):
    """Hands on every new token; generate() puts the prompt first."""

    def __init__(self, take: Callable[[int], None], known: int) -> None:
        """known: how many of the first tokens are not handed on."""
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
    """True for every row once the event is set."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        stopped = torch.full((input_ids.shape[0],), self._event.is_set(), dtype=torch.bool, device=input_ids.device)
        return cast(torch.BoolTensor, stopped)
