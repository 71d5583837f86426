"""Takes requests from the queue, runs them on the engine and streams their text to the replies.

The worker owns the engine: only it loads models and starts generations. It switches models only while no request runs.
The queue owns the status of each request. Failures of one request do not stop the queue.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

from bot.conversations.conversations import Conversations
from bot.conversations.request_queue import RequestQueue
from bot.generation.engine_request import engine_request
from bot.generation.model_loader import Loader, Locate
from bot.generation.user_messages import cannot_see, counted
from bot.generation.vision import asked_pictures, is_only_pictures, without_pictures
from bot.observability.metrics import Metrics
from bot.replies.replies import STATUS, LiveReply, Replies
from bot.storage import Storage
from bot.types.engine import Engine, EngineRequest, LoadedModel, ModelServers
from bot.types.errors import CannotSee, EngineDied, InhouseError, ModelError, NoServer, ServerLost, StorageError
from bot.types.messages import (
    FinishReason,
    GenerationRequest,
    RequestStatus,
    TokenDelta,
)

log = logging.getLogger(__name__)

DEATHS_UNTIL_ALONE = 2
"""Engine deaths after which a request runs alone, and fails if the engine dies again.

After one death the requests that ran are tried together again: all but one of them are innocent.
"""

MOST_EXTERNAL = 3
"""Deaths with an external cause for which a request is not blamed. The kernel's out-of-memory killer is one, and the
request may be what takes the memory, so later ones count like others."""

RESTART_S = 60.0
"""Minimum seconds between restarts of an idle engine, so that one that always exits is not reloaded in a tight loop."""

RESTARTING = "restarting the model"
AGAIN = "asking the model's server again"
UNSTORED = "My storage failed, so I gave this up; the log of Inhouse says why. Please ask again."
"""Shown to users instead of the StorageError, whose message names a local path."""


Take = Callable[[GenerationRequest], Awaitable[GenerationRequest | None]]
"""Takes a STARTING request from the host that holds it; None if it waits again. Raises StorageError."""


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
        take: Take,
        seeing: Callable[[str], str] = lambda _: "",
    ) -> None:
        """take: takes a request from the host that holds it.

        seeing: finds a model other than the named one that can see, '' if there is none here; may read the disk.
        """
        self._engine, self._queue, self._storage = engine, queue, storage
        self._replies, self._conversations = replies, conversations
        self._default, self._metrics, self._take, self._seeing = default, metrics, take, seeing
        self._blind: set[str] = set()  # models whose servers refused pictures
        self.loader = Loader(engine, locate, metrics)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._taking: set[asyncio.Task[None]] = set()  # of requests that other hosts hold
        self._ran_alone = False  # at the last death of the engine, one request ran
        self._external_deaths: Counter[str] = Counter()  # by unfinished request
        self._free = asyncio.Event()  # a request ended or a model was loaded
        self.draining = False
        """Whether `drain` was called."""
        self._not_handed_back: list[StorageError] = []  # for one line in the log
        self._turn = asyncio.Lock()  # held while loading a model or starting a request
        if isinstance(engine, ModelServers):
            engine.on_change(self._model_changed)

    @property
    def slots(self) -> int:
        """How many requests run at once now: one while a suspect waits or runs."""
        unfinished = (*self._queue.running(), *self._queue.waiting())
        return 1 if any(map(is_suspect, unfinished)) else self.loader.slots

    async def run(self) -> None:
        """Load the model `default`, then run requests. Raises ModelError if that first load fails."""
        try:
            await self._load(self._default)
        except EngineDied as error:
            log.error("%s The next question starts it again.", error)
        while True:
            await self._until(lambda: len(self._running) + len(self._taking) < self.loader.slots)
            request = await self._queue.get(self.loader.name)
            if not self._queue.host_of(request.request_id):
                await self._start(request)
                continue
            taking = asyncio.create_task(self._start(request), name=f"take {request.request_id}")
            self._taking.add(taking)
            taking.add_done_callback(self._taken)

    async def restart_engine(self, why: str) -> bool:
        """Reload the model in a new process; False if requests are running or none is loaded. New requests wait."""
        async with self._turn:
            if self.loader.loaded is None or self._running:
                return False
            model = self.loader.loaded.name
            self.loader.mark_lost(f"{why} {model} is loaded again in a new process.")
            await self._engine.close()
            try:
                await self._load(model)
            except InhouseError as error:
                log.error("%s The next question tries it again.", error)
            return True

    async def keep_engine_healthy(self) -> None:
        """Restart the engine whenever it reports itself unhealthy, before a user waits for it; runs until cancelled."""
        while True:
            if await self.restart_engine(await self._engine.wait_until_unhealthy()):
                await asyncio.sleep(RESTART_S)

    async def end_with_error(self, request: GenerationRequest, error: str) -> None:
        """Show an error sentence for a request that left the queue."""
        await self._finish(request, FinishReason.ERROR, error)

    async def wait_until_idle(self) -> LoadedModel:
        """Wait until a model is loaded and no request waits or runs; returns the loaded model."""
        await self._until(lambda: self.loader.loaded is not None and not self._running and not self._queue.waiting())
        assert self.loader.loaded is not None
        return self.loader.loaded

    async def stop(self, request_id: str, *, unasked: bool = False) -> bool:
        """Stop an unfinished request, whatever its status; False if it has ended. unasked: its question was deleted."""
        live = self._replies.get(request_id)
        if unasked and live is not None:
            live.withdraw()
        if self._queue.request_stop(request_id):  # noted first: the engine may not have the request yet
            with contextlib.suppress(EngineDied):
                await self._engine.abort(request_id)
            return True
        request = self._queue.cancel(request_id)
        if request is not None:
            await self._finish(request, FinishReason.ABORT)
            return True
        hosts = self._storage.hosts
        return bool(hosts.this) and await hosts.ask_to_stop(request_id, unasked=unasked)

    async def drain(self, seconds: float) -> None:
        """Give running answers `seconds` to finish; return the rest to storage for the next start."""
        self.draining = True
        for task in self._taking:
            task.cancel()
        if self._taking:
            await asyncio.wait(self._taking)
        for request in self._queue.starting():  # first, so that another host begins them meanwhile
            self._queue.put_back(request.request_id)
            await self._hand_back(request)
        if self._running:
            await asyncio.wait(self._running.values(), timeout=seconds)
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        for request in self._queue.release():
            await self._hand_back(request)
        if self._not_handed_back:
            log.error(
                "What is left of the time of %s could not be stored for the next start: %s",
                *(counted(len(self._not_handed_back), "question"), self._not_handed_back[-1]),
            )
            self._not_handed_back.clear()

    async def _start(self, request: GenerationRequest) -> None:
        """Take a STARTING request, load its model if needed, then run it; a suspect alone."""
        try:
            taken = await self._take(request)
        except StorageError as error:
            if not self._queue.host_of(request.request_id) and self._queue.status(request.request_id) is not None:
                await self._failed(request, self._replies.open(request), error)
            return
        if taken is None or self._queue.status(request.request_id) is None:  # None: it was stopped
            return
        request, live = taken, self._replies.open(taken)
        async with self._turn:
            try:
                if is_suspect(request) or not self.loader.has(request.model):
                    await self._until(lambda: not self._running)
                if not self.loader.has(request.model):
                    await self._load(request.model)
            except Exception as error:
                await self._failed(request, live, error)
                return
            if not self._queue.run(request.request_id):
                return
            live.set_status("")
            task = asyncio.create_task(self._run_request(request, live), name=f"request {request.request_id}")
            self._running[request.request_id] = task
            task.add_done_callback(lambda _: self._ended(request.request_id))
        if is_suspect(request):
            await self._until(lambda: not self._running)

    async def _run_request(self, request: GenerationRequest, live: LiveReply) -> None:
        began = time.monotonic()
        last: TokenDelta | None = None
        try:
            self._metrics.started(request)
            prompt = await self._conversations.prompt(request)
            if prompt is not None:
                await live.set_prompt(prompt)
            if prompt is None or self._queue.stop_requested(request.request_id):  # None: the message was deleted
                await self._end(request, FinishReason.ABORT)
                return
            if self.loader.loaded is None:  # the engine died under another request during the preparation
                await self._requeue(request, live, counts=False)
                return
            asked = engine_request(request, prompt, self.loader.loaded)
            if self.loader.loaded.capabilities.vision is not False and request.model not in self._blind:
                try:
                    last = await self._stream(request, live, asked)
                except CannotSee as error:
                    log.warning("%s", error)
                    self._blind.add(request.model)
            if last is None:
                if unseen := asked_pictures(prompt):
                    other = await asyncio.to_thread(self._seeing, request.model)
                    sentence = cannot_see([each.name for each in unseen], other)
                    if is_only_pictures(prompt):
                        await self._end(request, FinishReason.ERROR, sentence)
                        return
                    live.add_note(sentence)
                last = await self._stream(request, live, replace(asked, prompt=without_pictures(prompt)))
            assert last is not None
            assert last.finish_reason is not None
            await live.finish(last.finish_reason, last.usage)
            self._metrics.ended(last.finish_reason, last.usage)
            self._queue.end(request.request_id, STATUS[last.finish_reason], time.monotonic() - began)
        except asyncio.CancelledError:
            if self.draining:
                await self._hand_back(request)
            raise
        except Exception as error:
            await self._failed(request, live, error)

    async def _stream(self, request: GenerationRequest, live: LiveReply, asked: EngineRequest) -> TokenDelta | None:
        """Show the text of one generation; returns its last delta."""
        last: TokenDelta | None = None
        async with contextlib.aclosing(self._engine.stream(asked)) as deltas:
            async for delta in deltas:
                if delta.retracts:
                    live.retract()
                if delta.reasoning:
                    live.think(delta.reasoning)
                if delta.text and not live.text:
                    self._metrics.first_words(request)
                live.push(delta.text)
                last = delta
        return last

    async def _hand_back(self, request: GenerationRequest) -> None:
        """Return a request to storage; the next start finds it even if this write fails."""
        try:
            await self._storage.inbox.hand_back(request.request_id, request.wait_left_s, counts=False)
        except StorageError as error:
            self._not_handed_back.append(error)

    async def _end(self, request: GenerationRequest, reason: FinishReason, error: str = "") -> None:
        """End a taken request, unless a stop has ended it."""
        status = self._queue.status(request.request_id)
        if status is RequestStatus.STARTING:  # a stop must not find it any more
            self._queue.end(request.request_id, STATUS[reason])
        if status is not None:
            await self._finish(request, reason, error)
            self._queue.end(request.request_id, STATUS[reason])

    async def _finish(self, request: GenerationRequest, reason: FinishReason, error: str = "") -> None:
        await self._replies.open(request).finish(reason, error=error)
        self._metrics.ended(reason)

    async def _failed(self, request: GenerationRequest, live: LiveReply, error: Exception) -> None:
        """Requeue a request that failed while it was STARTING or RUNNING, or end it with an error."""
        about = {"request_id": request.request_id}
        try:
            if isinstance(error, EngineDied):
                await self._retry(request, live, error)
            elif isinstance(error, ModelError):
                await self._use_other_model(request, live, error)
            elif isinstance(error, InhouseError):
                log.warning("A request failed: %s", error, extra=about)
                await self._end(
                    request, FinishReason.ERROR, UNSTORED if isinstance(error, StorageError) else str(error)
                )
            else:  # a bug in Inhouse
                log.error("A request failed because of a bug", exc_info=error, extra=about)
                await self._end(request, FinishReason.ERROR, "Something went wrong here; the log of Inhouse says what.")
        except StorageError as problem:
            log.error("A request cannot be tried again: %s", problem, extra=about)
            await self._end(request, FinishReason.ERROR, UNSTORED)

    async def _retry(self, request: GenerationRequest, live: LiveReply, error: EngineDied) -> None:
        """Requeue a request after an engine death; end it at its second or later one if it ran alone."""
        if self._queue.status(request.request_id) is RequestStatus.STARTING:  # the load of its model ended the engine
            await self._requeue(request, live, counts=False)
            return
        if isinstance(error, NoServer):  # the load waits for one
            self.loader.mark_lost(str(error), restarted=False)
            await self._requeue(request, live, counts=False, status=AGAIN)
            return
        status = AGAIN if isinstance(error, ServerLost) else RESTARTING
        if isinstance(error, ServerLost):
            self._ran_alone = len(self._running) <= 1
        elif self.loader.loaded is not None:  # the first request to notice this death
            self._ran_alone = len(self._running) <= 1
            self.loader.mark_lost(str(error))
        self._external_deaths[request.request_id] += error.external
        if error.external and self._external_deaths[request.request_id] <= MOST_EXTERNAL:
            await self._requeue(request, live, counts=False, status=status)
            return
        deaths = deaths_of(request) + 1
        if deaths >= DEATHS_UNTIL_ALONE and self._ran_alone:
            what = "server failed" if isinstance(error, ServerLost) else "process ended"
            sentence = f"The model's {what} {deaths} times while it wrote this answer, so I gave it up."
            await self._end(request, FinishReason.ERROR, sentence)
            return
        await self._requeue(request, live, counts=True, status=status)

    async def _requeue(
        self, request: GenerationRequest, live: LiveReply, *, counts: bool, status: str = RESTARTING
    ) -> None:
        """Put a request back into the queue. `counts`: it may have caused the engine's death. Raises StorageError."""
        await self._storage.inbox.hand_back(request.request_id, request.wait_left_s, counts=counts)
        await self._put_back(replace(request, attempts=request.attempts + counts), live)
        live.set_status(status)

    async def _use_other_model(self, request: GenerationRequest, live: LiveReply, error: ModelError) -> None:
        """Fall back to a model that loads, for this request and its conversation."""
        fallback = await self._conversations.roll_back(request)
        if fallback is None or fallback == request.model:
            await self._end(request, FinishReason.ERROR, str(error))
            return
        log.warning("%s Back to %s.", error, fallback)
        await self._put_back(replace(request, model=fallback), live, f"*{error} {fallback} answers instead.*")

    async def _put_back(self, request: GenerationRequest, live: LiveReply, note: str = "") -> None:
        """Requeue a request with an empty reply, unless it was stopped meanwhile."""
        if self._queue.stop_requested(request.request_id):
            await self._end(request, FinishReason.ABORT)
        elif self._queue.status(request.request_id) is not None:  # STARTING requests are cancelled at once
            live.restart(note)
            self._queue.requeue(request)

    def _model_changed(self, model: LoadedModel) -> None:
        self.loader.update(model)
        self._free.set()

    async def _load(self, model: str) -> None:
        await self.loader.load(model)
        self._free.set()

    def _taken(self, taking: asyncio.Task[None]) -> None:
        self._taking.discard(taking)
        if not taking.cancelled() and (error := taking.exception()) is not None:
            log.error("A request of another host could not be taken because of a bug", exc_info=error)
        self._free.set()

    def _ended(self, request_id: str) -> None:
        self._running.pop(request_id, None)
        if self._queue.status(request_id) is None:
            self._external_deaths.pop(request_id, None)
        self._free.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._free.clear()
            await self._free.wait()


def deaths_of(request: GenerationRequest) -> int:
    """Number of times that the engine died while it ran this request."""
    return request.attempts - request.service_runs


def is_suspect(request: GenerationRequest) -> bool:
    """Whether a request must run alone, to find out if it is what ends the engine."""
    return deaths_of(request) >= DEATHS_UNTIL_ALONE
