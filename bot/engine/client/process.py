"""Runs the engine as a child process and implements the Engine protocol (bot.types.engine) with it.

The child starts with the first load, and again with the first load after it died. Calls that are pending when it dies
raise EngineDied. Only the child imports torch.
"""

import asyncio
import contextlib
import itertools
import logging
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from bot.engine.client.child_process import ChildExit, ChildProcess
from bot.engine.client.protocol import (
    Abort,
    AskStats,
    Beat,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Progress,
    ProtocolError,
    Stats,
    StepOutput,
    Text,
    ToParent,
)
from bot.engine.client.request_validation import check_id, check_params
from bot.types.engine import EngineRequest, EngineStats, LoadedModel, LoadProgress, ModelSource
from bot.types.errors import EngineDied, EngineError, ModelError, RequestFailed
from bot.types.messages import TokenDelta

log = logging.getLogger("inhouse.engine")

NOT_RUNNING = "The engine is not running; it starts when a model is loaded."
ENDED = "The engine's process ended."
KILLED = "The engine's process was killed from outside ({}): by a person, or by the kernel when memory ran out."
HUNG_S = 60.0
"""Seconds without a message after which the process is replaced (a heartbeat is sent every two seconds)."""
RESUMED_S = 2 * HUNG_S
"""A process that ends within so many seconds after a suspend of the machine ended because of it: GPUs lose their
state, which shows as an error or as a hang of HUNG_S.
"""


def suspended_s() -> float:
    """Return how many seconds the machine was suspended since it was started (Linux; 0 elsewhere)."""
    if sys.platform != "linux":
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class EngineProcess:
    """An Engine in a child process. Belongs to one event loop.

    hung_s: heartbeat timeout, seconds. suspended: the clock of suspends, seconds.
    """

    def __init__(self, hung_s: float = HUNG_S, suspended: Callable[[], float] = suspended_s) -> None:
        self._hung_s = hung_s
        self._suspends = SuspendDetector(suspended)
        self._child: ChildProcess | None = None
        self._reading: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._streams: dict[int, asyncio.Queue[Text | EngineError]] = {}
        self._stream_numbers: dict[str, int] = {}
        self._loading: _Load | None = None
        self._stats_calls: list[asyncio.Future[EngineStats]] = []
        self._lock = asyncio.Lock()
        self._serving = False  # a model is loaded
        self._unhealthy = asyncio.Event()
        self._unhealthy_reason = ""
        self._silent_s = 0.0  # seconds since the last message

    @property
    def pid(self) -> int | None:
        """The child's process id, or None when it is not running."""
        return self._child.pid if self._child is not None else None

    async def load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        """Load `source` and make it current. Raises ModelError (then no model is loaded), EngineDied or EngineError."""
        async with self._lock:
            if self._stream_numbers:
                raise EngineError("A model cannot be loaded while answers are being generated.")
            if self._child is None:
                progress(LoadProgress("starting the engine", 0.0))
                if self._reading is not None:
                    await asyncio.wait([self._reading])  # it still fails the calls of the process that ended
                self._child = await ChildProcess.open()
                self._reading = asyncio.create_task(self._read(self._child))
            self._serving = False
            self._unhealthy.clear()
            number = next(self._numbers)
            self._loading = _Load(number, source.name, progress, asyncio.get_running_loop().create_future())
            try:
                await self._send(self._child, Load(number, source))
                loaded = await self._loading.outcome
                self._serving = True
                return loaded
            finally:
                self._loading = None

    async def stream(self, request: EngineRequest) -> AsyncGenerator[TokenDelta, None]:
        """Yield the deltas of one generation. Closing the iterator aborts it. Raises RequestFailed or EngineDied."""
        check_params(request.params)
        name = request.request_id
        check_id(name, self._stream_numbers)
        child, number = self._running_child(), next(self._numbers)
        deltas: asyncio.Queue[Text | EngineError] = asyncio.Queue()
        self._stream_numbers[name], self._streams[number] = number, deltas
        open_there = True
        try:
            try:
                await self._send(child, Generate(number, request))
            except ProtocolError as error:
                too_long = "The conversation is too long to be handed to the engine; use /reset."
                raise RequestFailed(too_long) from error
            while open_there:
                item = await deltas.get()
                if isinstance(item, EngineError):
                    open_there = False
                    raise item
                open_there = item.finish_reason is None
                yield TokenDelta(name, item.text, item.finish_reason, item.usage, item.reasoning)
        finally:
            del self._stream_numbers[name], self._streams[number]
            if open_there and self._child is child:
                with contextlib.suppress(EngineDied):
                    await child.send(Abort(number))

    async def abort(self, request_id: str) -> None:
        """Stop a running generation at the next step boundary; an unknown id is ignored."""
        number = self._stream_numbers.get(request_id)
        if number is not None and self._child is not None:
            await self._child.send(Abort(number))

    async def stats(self) -> EngineStats:
        """Fetch current statistics. Raises EngineDied if the process is not running."""
        child = self._running_child()
        answer: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()
        self._stats_calls.append(answer)
        await self._send(child, AskStats())
        return await answer

    async def wait_until_unhealthy(self) -> str:
        """Wait until the process ended, or leaked memory while idle, with a model loaded. Returns the reason."""
        await self._unhealthy.wait()
        self._unhealthy.clear()
        return self._unhealthy_reason

    async def close(self) -> None:
        """Stop the process; running streams raise EngineDied."""
        self._serving = False  # not a failure to report
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _running_child(self) -> ChildProcess:
        if self._child is None:
            raise EngineDied(NOT_RUNNING, external=True)
        return self._child

    async def _send(self, child: ChildProcess, message: Load | Generate | AskStats) -> None:
        """Send a message. If the connection is gone, `_read` fails the call, with the cause. Raises ProtocolError."""
        with contextlib.suppress(EngineDied):
            await child.send(message)

    async def _read(self, child: ChildProcess) -> None:
        """Receive and dispatch messages until the connection ends, then fail all pending calls."""
        self._silent_s = 0.0
        watching = asyncio.create_task(self._watch(child), name="engine's beats")
        try:
            while (message := await child.receive()) is not None:
                self._silent_s = 0.0
                self._dispatch(message)
        except ProtocolError as error:
            log.error("the engine's process sent an invalid message: %s", error)
            child.kill()
        finally:
            watching.cancel()
            self._child = None
            closing = asyncio.create_task(child.close())
            cause = EngineDied(ENDED)  # what remains if the wait for the exit is cancelled
            try:
                ended = await asyncio.shield(closing)
                cause = self._cause(ended)
                log.info("the engine's process ended %s", ended.description)
            finally:
                self._fail_pending(cause)
                self._report_unhealthy(str(cause))
                self._serving = False

    def _cause(self, ended: ChildExit) -> EngineDied:
        """Return the error for the calls of a process that ended like this."""
        if ended.signal_from_outside:
            return EngineDied(KILLED.format(ended.signal_from_outside), external=True)
        return EngineDied(ENDED, external=self._suspends.recent())

    async def _watch(self, child: ChildProcess) -> None:
        """Kill the child after `hung_s` without a message.

        Counts ticks of this event loop, so time in which the whole machine was suspended does not count.
        """
        tick_s = min(1.0, self._hung_s / 10)
        while self._silent_s < self._hung_s:
            await asyncio.sleep(tick_s)
            self._silent_s += tick_s
            self._suspends.recent()
        log.error("the engine's process sent no heartbeat for %.0f s and is killed", self._hung_s)
        if self._loading is not None:
            self._loading.stalled = True
        child.kill()

    def _dispatch(self, message: ToParent) -> None:
        match message:
            case StepOutput(texts, failed):
                for text in texts:
                    if (deltas := self._streams.get(text.stream)) is not None:
                        deltas.put_nowait(text)
                for failure in failed:
                    if (deltas := self._streams.get(failure.stream)) is not None:
                        deltas.put_nowait(RequestFailed(failure.reason))
            case Progress() | Loaded() | LoadFailed():
                # Answers to an abandoned load have another number.
                if self._loading is not None and self._loading.number == message.number:
                    self._loading.handle(message)
            case Stats(stats) if self._stats_calls:
                answer = self._stats_calls.pop(0)
                if not answer.done():
                    answer.set_result(stats)
            case Beat(grown):
                if grown and not self._stream_numbers:
                    self._report_unhealthy(grown)
            case _:
                log.debug("ignored an unexpected %s message", type(message).__name__)

    def _report_unhealthy(self, reason: str) -> None:
        if self._serving:
            self._unhealthy_reason = reason
            self._unhealthy.set()

    def _fail_pending(self, cause: EngineDied) -> None:
        """Fail all pending calls with `cause` (a stalled load with ModelError)."""

        def died() -> EngineDied:  # one for each call: raising an exception changes it
            return EngineDied(str(cause), cause.external)

        for deltas in self._streams.values():
            deltas.put_nowait(died())
        for answer in self._stats_calls:
            if not answer.done():
                answer.set_exception(died())
        self._stats_calls.clear()
        loading = self._loading
        if loading is not None and not loading.outcome.done():
            stalled = ModelError(
                f"Loading {loading.name} made no progress for {self._hung_s:.0f} s at '{loading.stage}' and was"
                " stopped. Check that its files can be read, or choose another model."
            )
            loading.outcome.set_exception(stalled if loading.stalled else died())


class SuspendDetector:
    """Tells whether the machine was suspended a short time ago. Call `recent` often: it remembers what it saw."""

    def __init__(self, suspended: Callable[[], float]) -> None:
        self._suspended = suspended
        self._total_s = suspended()
        self._resumed_at = -RESUMED_S

    def recent(self) -> bool:
        """Return whether a suspend of more than a second ended in the last RESUMED_S seconds."""
        total_s, now = self._suspended(), time.monotonic()
        if total_s > self._total_s + 1:
            self._total_s, self._resumed_at = total_s, now
        return now - self._resumed_at < RESUMED_S


@dataclass(slots=True)
class _Load:
    """A pending load. stalled: the child was killed because it made no progress."""

    number: int
    name: str
    progress: Callable[[LoadProgress], None]
    outcome: asyncio.Future[LoadedModel]
    stage: str = "starting the engine"
    stalled: bool = False

    def handle(self, message: Progress | Loaded | LoadFailed) -> None:
        match message:
            case Progress():
                self.stage = message.progress.stage
                self.progress(message.progress)
            case Loaded() if not self.outcome.done():
                self.outcome.set_result(message.model)
            case LoadFailed() if not self.outcome.done():
                self.outcome.set_exception(ModelError(message.reason))
