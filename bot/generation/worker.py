"""Takes requests from the queue, runs them on the engine and streams their text to the replies.

The worker owns the engine: only it loads models and starts generations. It switches models only while no request runs.
A request during which the engine died twice ends in an error. Failures of one request do not stop the queue.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from bot.conversations.conversations import Conversations
from bot.conversations.request_queue import RequestQueue
from bot.generation.model_loader import Loader, Locate
from bot.observability.metrics import Metrics
from bot.replies.replies import LiveReply, Replies
from bot.storage import Storage
from bot.types.engine import Engine, EngineRequest, LoadedModel
from bot.types.errors import EngineDied, InhouseError, ModelError, StorageError
from bot.types.messages import FinishReason, GenerationRequest, TokenDelta

log = logging.getLogger(__name__)

ATTEMPTS = 2
"""Number of engine deaths after which a request that ran during all of them fails."""

UNSTORED = "My storage failed, so I gave this up; the log of Inhouse says why. Please ask again."
"""Shown to users instead of the StorageError, whose message names a local path."""


class Worker:
    """Runs requests until it is cancelled or drained."""

    def __init__(
        self,
        engine: Engine,
        queue: RequestQueue,
        storage: Storage,
        replies: Replies,
        conversations: Conversations,
        locate: Locate,
        default: str,
        metrics: Metrics,
    ) -> None:
        self._engine, self._queue, self._storage = engine, queue, storage
        self._replies, self._conversations = replies, conversations
        self._default, self._metrics = default, metrics
        self.loader = Loader(engine, locate, metrics)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._stopped: set[str] = set()  # running requests that were asked to stop
        self._free = asyncio.Event()  # a request ended or a model was loaded
        self._draining = False
        self._turn = asyncio.Lock()  # held while loading a model or starting a request
        self._beginning: GenerationRequest | None = None  # taken from the queue, not running yet

    def submit(self, request: GenerationRequest, *, recall: bool = False) -> None:
        """Queue a stored request and open its reply. `recall`: an earlier process may have posted parts of it."""
        self._replies.open(request, recall=recall)
        self._queue.put(request)

    async def run(self) -> None:
        """Load the model `default`, then run requests. Raises ModelError if that first load fails."""
        try:
            await self._load(self._default)
        except EngineDied as error:
            log.error("%s The next question starts it again.", error)
        while True:
            await self._until(lambda: len(self._running) < self.loader.slots)
            await self._begin(await self._queue.get(self.loader.name))

    async def renew(self, why: str) -> bool:
        """Reload the model in a new process; False if requests are running or none is loaded. New requests wait."""
        async with self._turn:
            if self.loader.loaded is None or self._running:
                return False
            model = self.loader.loaded.name
            self.loader.lose(f"{why} {model} is loaded again in a new process.")
            await self._engine.close()
            try:
                await self._load(model)
            except InhouseError as error:
                log.error("%s The next question tries it again.", error)
            return True

    async def give_up(self, request: GenerationRequest, error: str) -> None:
        """End a request that is no longer in the queue with an error sentence."""
        await self._end(request, FinishReason.ERROR, error)

    async def wait_until_idle(self) -> LoadedModel:
        """Wait until a model is loaded and no request waits or runs; returns the loaded model."""
        await self._until(lambda: self.loader.loaded is not None and not self._running and not self._queue.waiting())
        assert self.loader.loaded is not None
        return self.loader.loaded

    async def stop(self, request_id: str, *, unasked: bool = False) -> bool:
        """Stop a waiting or running request; False if it is neither. unasked: its question was deleted."""
        live = self._replies.get(request_id)
        if unasked and live is not None:
            live.withdraw()
        request = self._queue.remove(request_id)
        if request is not None:
            await self._end(request, FinishReason.ABORT)
            return True
        if request_id in self._running:
            self._stopped.add(request_id)  # the engine may not have the request yet
            with contextlib.suppress(EngineDied):
                await self._engine.abort(request_id)
            return True
        if self._beginning is not None and self._beginning.request_id == request_id:
            request, self._beginning = self._beginning, None
            await self._end(request, FinishReason.ABORT)
            return True
        return False

    async def drain(self, seconds: float) -> None:
        """Give running answers `seconds` to finish; return the rest to storage for the next start."""
        self._draining = True
        if self._running:
            await asyncio.wait(self._running.values(), timeout=seconds)
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        for request in self._queue.waiting():
            taken = self._queue.remove(request.request_id)
            if taken is not None:
                await self._hand_on(taken)

    async def _begin(self, request: GenerationRequest) -> None:
        """Start a request. One that was running when the engine died runs alone, to find out if it is the cause."""
        self._beginning = request
        live = self._replies.get(request.request_id) or self._replies.open(request)
        async with self._turn:  # a stop may end the request while this waits
            await self._start(request, live)
        if request.attempts > 0:
            await self._until(lambda: not self._running)

    async def _start(self, request: GenerationRequest, live: LiveReply) -> None:
        problem: Exception | None = None
        try:
            if request.attempts > 0 or not self.loader.has(request.model):
                await self._until(lambda: not self._running)
            if not self.loader.has(request.model):
                await self._load(request.model)
        except Exception as error:
            problem = error
        stopped, self._beginning = self._beginning is None, None
        if stopped or problem is not None:
            self._queue.done(request.request_id)
            if problem is not None and not stopped:
                await self._failed(request, live, problem)
            return
        live.say("")
        task = asyncio.create_task(self._serve(request, live), name=f"request {request.request_id}")
        self._running[request.request_id] = task
        task.add_done_callback(lambda _: self._ended(request.request_id))

    async def _serve(self, request: GenerationRequest, live: LiveReply) -> None:
        began = time.monotonic()
        last: TokenDelta | None = None
        try:
            self._metrics.started(request)
            await self._storage.inbox.start(request.request_id)
            prompt = await self._conversations.prompt(request)
            if prompt is not None:
                await live.begins(prompt)
            if prompt is None or request.request_id in self._stopped:  # the message was deleted, or a stop came
                await self._end(request, FinishReason.ABORT)
                return
            if self.loader.loaded is None:  # the engine died under another request during the preparation
                raise EngineDied("The engine died before it was asked.")
            # Cap answers at half of the context window, so that the question always fits.
            limit = min(request.params.max_tokens, self.loader.loaded.context_window // 2)
            params = replace(request.params, max_tokens=limit)
            async for delta in self._engine.stream(EngineRequest(request.request_id, prompt, params)):
                if delta.text and not live.text:
                    self._metrics.first_words(request)
                live.push(delta.text)
                last = delta
            assert last is not None
            assert last.finish_reason is not None
            await live.finish(last.finish_reason, last.usage)
            self._metrics.ended(last.finish_reason, last.usage)
            self._queue.done(request.request_id, time.monotonic() - began)
        except asyncio.CancelledError:
            if self._draining:
                await self._hand_on(request)
            raise
        except Exception as error:
            self._queue.done(request.request_id)
            await self._failed(request, live, error)
        finally:
            self._queue.done(request.request_id)

    async def _hand_on(self, request: GenerationRequest) -> None:
        """Return a request to storage; the next start finds it even if this write fails."""
        try:
            await self._storage.inbox.hand_back(request.request_id, request.wait_left_s, counts=False)
        except StorageError as error:
            log.error("What is left of a question's time could not be stored for the next start: %s", error)

    async def _end(self, request: GenerationRequest, reason: FinishReason, error: str = "") -> None:
        live = self._replies.get(request.request_id) or self._replies.open(request)
        await live.finish(reason, error=error)
        self._metrics.ended(reason)

    async def _failed(self, request: GenerationRequest, live: LiveReply, error: Exception) -> None:
        """Retry a failed request or end it with an error; other requests continue."""
        about = {"request_id": request.request_id}
        try:
            if isinstance(error, EngineDied):
                await self._retry(request, live)
            elif isinstance(error, ModelError):
                await self._other_model(request, live, error)
            elif isinstance(error, InhouseError):
                log.warning("A request failed: %s", error, extra=about)
                await self._end(
                    request, FinishReason.ERROR, UNSTORED if isinstance(error, StorageError) else str(error)
                )
            else:  # a bug in Inhouse
                log.error("A request failed in a way that was not foreseen", exc_info=error, extra=about)
                await self._end(request, FinishReason.ERROR, "Something went wrong here; the log of Inhouse says what.")
        except StorageError as problem:
            log.error("A request cannot be tried again: %s", problem, extra=about)
            await self._end(request, FinishReason.ERROR, UNSTORED)

    async def _retry(self, request: GenerationRequest, live: LiveReply) -> None:
        """Requeue a request after an engine death, to run alone; end it with an error after ATTEMPTS deaths."""
        self.loader.lose("The engine died; it is started again")
        if request.request_id in self._stopped:
            await self._end(request, FinishReason.ABORT)
            return
        attempts = request.attempts + 1
        deaths = attempts - request.service_runs
        if deaths >= ATTEMPTS:
            error = f"The model's process ended {deaths} times while it wrote this answer, so I gave it up."
            await self._end(request, FinishReason.ERROR, error)
            return
        await self._storage.inbox.hand_back(request.request_id, request.wait_left_s, counts=True)
        if request.request_id in self._stopped:  # while that was stored
            await self._end(request, FinishReason.ABORT)
            return
        live.restart()
        live.say("restarting the model")
        self._queue.put(replace(request, attempts=attempts))

    async def _other_model(self, request: GenerationRequest, live: LiveReply, error: ModelError) -> None:
        """Fall back to a model that loads, for this request and its conversation."""
        fallback = await self._conversations.roll_back(request)
        if fallback is None or fallback == request.model:
            await self._end(request, FinishReason.ERROR, str(error))
            return
        if request.request_id in self._stopped:
            await self._end(request, FinishReason.ABORT)
            return
        log.warning("%s Back to %s.", error, fallback)
        live.restart(f"*{error} {fallback} answers instead.*")
        self._queue.put(replace(request, model=fallback))

    async def _load(self, model: str) -> None:
        await self.loader.load(model)
        self._free.set()

    def _ended(self, request_id: str) -> None:
        self._running.pop(request_id, None)
        self._stopped.discard(request_id)
        self._free.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._free.clear()
            await self._free.wait()
