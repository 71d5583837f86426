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
    Step,
    Text,
    ToParent,
)
from bot.engine.client.request_validation import check_params
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
        self._suspends = _SuspendDetector(suspended)
        self._link: ChildProcess | None = None
        self._reading: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._streams: dict[int, asyncio.Queue[Text | EngineError]] = {}
        self._names: dict[str, int] = {}
        self._loading: _Load | None = None
        self._asking: list[asyncio.Future[EngineStats]] = []
        self._lock = asyncio.Lock()
        self._serving = False  # a model is loaded
        self._unhealthy = asyncio.Event()
        self._ailment = ""
        self._quiet_s = 0.0  # seconds since the last message

    @property
    def pid(self) -> int | None:
        """The child's process id, or None when it is not running."""
        return self._link.pid if self._link is not None else None

    async def load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        """Load `source` and make it current. Raises ModelError (then no model is loaded), EngineDied or EngineError."""
        async with self._lock:
            if self._names:
                raise EngineError("A model cannot be loaded while answers are being generated.")
            if self._link is None:
                progress(LoadProgress("starting the engine", 0.0))
                if self._reading is not None:
                    await asyncio.wait([self._reading])  # it still fails the calls of the process that ended
                self._link = await ChildProcess.open()
                self._reading = asyncio.create_task(self._read(self._link))
            self._serving = False
            self._unhealthy.clear()
            number = next(self._numbers)
            self._loading = _Load(number, source.name, progress, asyncio.get_running_loop().create_future())
            try:
                await self._send(self._link, Load(number, source))
                loaded = await self._loading.outcome
                self._serving = True
                return loaded
            finally:
                self._loading = None

    async def stream(self, request: EngineRequest) -> AsyncGenerator[TokenDelta, None]:
        """Yield the deltas of one generation. Closing the iterator aborts it. Raises RequestFailed or EngineDied."""
        check_params(request.params)
        name = request.request_id
        if name in self._names:
            raise RequestFailed(f"A generation with the id {name} is running already.")
        link, number = self._running_link(), next(self._numbers)
        deltas: asyncio.Queue[Text | EngineError] = asyncio.Queue()
        self._names[name], self._streams[number] = number, deltas
        open_there = True
        try:
            try:
                await self._send(link, Generate(number, request))
            except ProtocolError as error:
                too_long = "The conversation is too long to be handed to the engine; use /reset."
                raise RequestFailed(too_long) from error
            while open_there:
                item = await deltas.get()
                if isinstance(item, EngineError):
                    open_there = False
                    raise item
                open_there = item.finish_reason is None
                yield TokenDelta(name, item.text, item.finish_reason, item.usage)
        finally:
            del self._names[name], self._streams[number]
            if open_there and self._link is link:
                with contextlib.suppress(EngineDied):
                    await link.send(Abort(number))

    async def abort(self, request_id: str) -> None:
        """Stop a running generation at the next step boundary; an unknown id is ignored."""
        number = self._names.get(request_id)
        if number is not None and self._link is not None:
            await self._link.send(Abort(number))

    async def stats(self) -> EngineStats:
        """Fetch current statistics. Raises EngineDied if the process is not running."""
        link = self._running_link()
        answer: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()
        self._asking.append(answer)
        await self._send(link, AskStats())
        return await answer

    async def wait_until_unhealthy(self) -> str:
        """Wait until the process ended, or leaked memory while idle, with a model loaded. Returns the reason."""
        await self._unhealthy.wait()
        self._unhealthy.clear()
        return self._ailment

    async def close(self) -> None:
        """Stop the process; running streams raise EngineDied."""
        self._serving = False  # not a failure to report
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _running_link(self) -> ChildProcess:
        if self._link is None:
            raise EngineDied(NOT_RUNNING, external=True)
        return self._link

    async def _send(self, link: ChildProcess, message: Load | Generate | AskStats) -> None:
        """Send a message. If the connection is gone, `_read` fails the call, with the cause. Raises ProtocolError."""
        with contextlib.suppress(EngineDied):
            await link.send(message)

    async def _read(self, link: ChildProcess) -> None:
        """Receive and dispatch messages until the connection ends, then fail all pending calls."""
        self._quiet_s = 0.0
        watching = asyncio.create_task(self._watch(link), name="engine's beats")
        try:
            while (message := await link.receive()) is not None:
                self._quiet_s = 0.0
                self._dispatch(message)
        except ProtocolError as error:
            log.error("the engine's process does not speak our protocol: %s", error)
            link.kill()
        finally:
            watching.cancel()
            self._link = None
            closing = asyncio.create_task(link.close())
            cause = EngineDied(ENDED)  # what remains if the wait for the exit is cancelled
            try:
                ended = await asyncio.shield(closing)
                cause = self._cause(ended)
                log.info("the engine's process ended %s", ended.description)
            finally:
                self._fail_pending(cause)
                self._ail(str(cause))
                self._serving = False

    def _cause(self, ended: ChildExit) -> EngineDied:
        """Return the error for the calls of a process that ended like this."""
        if ended.signal_from_outside:
            return EngineDied(KILLED.format(ended.signal_from_outside), external=True)
        return EngineDied(ENDED, external=self._suspends.recent())

    async def _watch(self, link: ChildProcess) -> None:
        """Kill the child after `hung_s` without a message.

        Counts ticks of this event loop, so time in which the whole machine was suspended does not count.
        """
        tick_s = min(1.0, self._hung_s / 10)
        while self._quiet_s < self._hung_s:
            await asyncio.sleep(tick_s)
            self._quiet_s += tick_s
            self._suspends.recent()
        log.error("the engine's process did nothing for %.0f s, so it is replaced", self._hung_s)
        if self._loading is not None:
            self._loading.stood_still = True
        link.kill()

    def _dispatch(self, message: ToParent) -> None:
        match message:
            case Step(texts, failed):
                for text in texts:
                    if (deltas := self._streams.get(text.stream)) is not None:
                        deltas.put_nowait(text)
                for failure in failed:
                    if (deltas := self._streams.get(failure.stream)) is not None:
                        deltas.put_nowait(RequestFailed(failure.reason))
            case Progress() | Loaded() | LoadFailed():
                # Answers to an abandoned load have another number.
                if self._loading is not None and self._loading.number == message.number:
                    self._loading.hear(message)
            case Stats(stats) if self._asking:
                answer = self._asking.pop(0)
                if not answer.done():
                    answer.set_result(stats)
            case Beat(grown):
                if grown and not self._names:
                    self._ail(grown)
            case _:
                log.debug("nobody waits for %s", type(message).__name__)

    def _ail(self, ailment: str) -> None:
        if self._serving:
            self._ailment = ailment
            self._unhealthy.set()

    def _fail_pending(self, cause: EngineDied) -> None:
        """Fail all pending calls with `cause` (a stalled load with ModelError)."""

        def died() -> EngineDied:  # one for each call: raising an exception changes it
            return EngineDied(str(cause), cause.external)

        for deltas in self._streams.values():
            deltas.put_nowait(died())
        for answer in self._asking:
            if not answer.done():
                answer.set_exception(died())
        self._asking.clear()
        loading = self._loading
        if loading is not None and not loading.outcome.done():
            stalled = ModelError(
                f"Loading {loading.name} stood still for {self._hung_s:.0f} s at '{loading.stage}', so it was given up:"
                " see whether its files can be read, or choose another model."
            )
            loading.outcome.set_exception(stalled if loading.stood_still else died())


class _SuspendDetector:
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
    """A pending load. stood_still: the child was killed because it made no progress."""

    number: int
    name: str
    progress: Callable[[LoadProgress], None]
    outcome: asyncio.Future[LoadedModel]
    stage: str = "starting the engine"
    stood_still: bool = False

    def hear(self, message: Progress | Loaded | LoadFailed) -> None:
        match message:
            case Progress():
                self.stage = message.progress.stage
                self.progress(message.progress)
            case Loaded() if not self.outcome.done():
                self.outcome.set_result(message.model)
            case LoadFailed() if not self.outcome.done():
                self.outcome.set_exception(ModelError(message.reason))
