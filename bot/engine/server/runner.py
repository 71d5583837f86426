"""Entry point of the engine process: `python -m bot.engine.server.runner`, started by bot.engine.client.child_process.

Exchanges protocol messages over a connection whose port and secret come from the environment; stdout and stderr are
only logged. The reader thread exits the process as soon as the connection ends, whatever torch is doing. The main
thread runs everything else, one call after another from one inbox, except loads (see bot.engine.server.compute_threads)
and prompt building (see bot.engine.server.engine_server). All output between two sends shares one frame. A parent that
reads slowly delays sending, not generation.
"""

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import psutil

from bot.engine.client import protocol
from bot.engine.client.protocol import (
    Abort,
    AskStats,
    Beat,
    Failed,
    Generate,
    Hello,
    Load,
    Loaded,
    LoadFailed,
    Message,
    Progress,
    Stats,
    StepOutput,
    Text,
    ToChild,
)
from bot.engine.oom_score import raise_oom_score
from bot.types.engine import LoadProgress
from bot.types.errors import InhouseError

if TYPE_CHECKING:
    from bot.engine.server.engine_server import EngineServer

BEAT_S = 2.0
"""Seconds between heartbeats."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Activity:
    """A tracked activity. `busy` and `state` run on the heartbeat thread; `was_busy` and `seen` hold last results."""

    busy: Callable[[], bool]
    state: Callable[[], object]
    seen: object = None
    was_busy: bool = False

    def advances(self) -> bool:
        """Return False if it was busy at this check and the last one and its state did not change."""
        busy, state = self.busy(), self.state()
        stands = busy and self.was_busy and state == self.seen
        self.was_busy, self.seen = busy, state
        return not stands


class Heartbeat:
    """Sends a heartbeat while the engine makes progress or is idle; the service replaces a process without one.

    Tracks activities (answers, prompts, a load). Each has a busy flag and a state that changes with progress, such as a
    count of decoder layers, so that a model which needs minutes per token still counts as alive. The heartbeat is
    skipped while a busy activity's state has not changed since the last check: a kernel that never returns, a deadlock,
    a disk that does not answer. busy: whether answers are generated; called on the heartbeat thread.
    """

    def __init__(self, beat: Callable[[], None], busy: Callable[[], bool], every_s: float = BEAT_S) -> None:
        self._beat, self._every_s = beat, every_s
        self.steps = 0
        self._activities: list[_Activity] = []
        self.watch(busy, lambda: self.steps)

    def step(self, *_: object) -> None:
        """Count the start of a decoder layer; cheap enough for a hook on every layer."""
        self.steps += 1

    def watch(self, busy: Callable[[], bool], state: Callable[[], object]) -> None:
        """Track another activity. Call before `start`."""
        self._activities.append(_Activity(busy, state))

    def start(self) -> None:
        """Start the heartbeat thread, which runs until the process ends."""
        threading.Thread(target=self._run, name="heart", daemon=True).start()

    def tick(self) -> None:
        """Send a heartbeat unless an activity is stalled."""
        advances = [activity.advances() for activity in self._activities]  # a list: each must record its state
        if all(advances):
            self._beat()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._every_s):
            self.tick()


def io_activity() -> object:
    """Return a value that changes while this process reads from disk or fills memory (with every megabyte)."""
    if sys.platform == "win32":
        process = psutil.Process()
        return process.io_counters().read_bytes, process.memory_info().num_page_faults >> 8
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_inblock, used.ru_majflt, used.ru_minflt >> 8


class Channel:
    """Sending side of the connection; thread-safe."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Send a whole message. Exits the process if the connection is gone."""
        frame = protocol.frame(message)
        try:
            with self._lock:
                self._connection.sendall(frame)
        except OSError:
            os._exit(0)


class Runner:
    """Runs calls from one inbox on the main thread and sends their output in one frame."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._texts: list[Text] = []
        self._failed: list[Failed] = []
        self._load: Load | None = None
        self._asked = self._done = self._told = 0  # loads requested and finished; progress messages
        self.server: EngineServer | None = None
        self._heartbeat = Heartbeat(self._beat, lambda: self.server is not None and self.server.generating > 0)
        self._heartbeat.watch(lambda: self.server is not None and self.server.preparing > 0, self._prepared)
        self._heartbeat.watch(
            lambda: self._asked > self._done, lambda: (self._told, self._heartbeat.steps, io_activity())
        )

    def post(self, call: Callable[[], None]) -> None:
        """Queue a call for the main thread; safe from any thread."""
        self._inbox.put(call)

    def run(self) -> None:
        """Serve until the process ends."""
        self._heartbeat.start()
        gc.disable()  # collections find nothing during imports and are a sixth of their time
        from bot.engine.server.engine_server import EngineServer  # imports torch, which is slow: after the hello

        gc.freeze()  # later collections skip the imported modules
        gc.enable()
        self.server = EngineServer(self.post, self._emit, self._heartbeat.step)
        while True:
            call = self._inbox.get()
            with contextlib.suppress(Empty):
                while True:
                    call()
                    call = self._inbox.get_nowait()
            if self._texts or self._failed:
                step = StepOutput(self._texts, self._failed)
                self._texts, self._failed = [], []
                self._channel.send(step)
            if self._load is not None and not self.server.running:
                self._do_load(self._load)
                self._load = None

    def handle(self, message: ToChild) -> None:
        """Handle a message on the reader thread: answer AskStats directly, post the rest to the main thread."""
        match message:
            case AskStats() if self.server is not None:
                self._channel.send(Stats(self.server.stats()))
            case _:
                self._asked += isinstance(message, Load)  # here, so that a stalled torch import is detected
                self.post(partial(self._do, message))

    def _prepared(self) -> int:
        return self.server.prepared_steps if self.server is not None else 0

    def _beat(self) -> None:
        """Send a heartbeat; runs on the heartbeat thread."""
        self._channel.send(Beat(self.server.grown() if self.server is not None else ""))

    def _emit(self, item: Text | Failed) -> None:
        if isinstance(item, Text):
            self._texts.append(item)
        else:
            self._failed.append(item)

    def _do(self, message: ToChild) -> None:
        assert self.server is not None
        match message:
            case Load():
                self._done += self._load is not None  # replaces an abandoned load
                self._load = message  # runs once aborted answers have ended
            case Generate(stream, request):
                self.server.generate(stream, request)
            case Abort(stream):
                self.server.abort(stream)
            case AskStats():
                self._channel.send(Stats(self.server.stats()))

    def _do_load(self, load: Load) -> None:
        assert self.server is not None
        try:
            model = self.server.load(load.source, partial(self._report, load.number))
        except InhouseError as error:
            self._channel.send(LoadFailed(load.number, str(error)))
        else:
            self._channel.send(Loaded(load.number, model))
        finally:
            self._done += 1

    def _report(self, number: int, progress: LoadProgress) -> None:
        self._told += 1
        self._channel.send(Progress(number, progress))


def _read(connection: socket.socket, runner: Runner) -> None:
    """Reader thread: dispatch messages; exit the process when the connection ends or on any error."""
    try:
        while (message := protocol.receive(connection)) is not None:
            runner.handle(message)
        os._exit(0)
    except BaseException:
        log.exception("reading messages from the service failed")
        sys.stderr.flush()
    finally:
        os._exit(1)


def main() -> None:
    """Connect, send the hello and serve; never returns."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in (signal.SIGINT, signal.SIGTERM):  # the parent stops this process, also after Ctrl-C
        signal.signal(name, signal.SIG_IGN)
    raise_oom_score()
    secret = os.environ.pop(protocol.SECRET_VARIABLE)
    connection = socket.create_connection(("127.0.0.1", int(os.environ.pop(protocol.PORT_VARIABLE))))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel = Channel(connection)
    channel.send(Hello(secret, protocol.VERSION))
    runner = Runner(channel)
    threading.Thread(target=_read, args=(connection, runner), name="reader", daemon=True).start()
    try:
        runner.run()
    except BaseException:
        log.exception("the engine failed")
        sys.stderr.flush()
        os._exit(1)  # does not wait for threads that are inside torch


if __name__ == "__main__":
    main()
