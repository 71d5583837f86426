"""The engine's process: `python -m bot.engine.server.runner`, started by bot.engine.client.child_process and by nobody
else.

In: messages on the connection whose port and secret are in the environment. Out: messages; its output streams are only
a log. Two threads of ours: the reader, which ends the process the moment the connection does (whatever torch is doing),
and the main thread, which does everything else, one call after another, from one inbox (except a load, see `threads`,
and prompts, see `host`). What happened between two sends travels in one frame. A parent that reads slowly holds up the
sending, never the generating.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

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
    Step,
    Text,
    ToChild,
)
from bot.engine.server.heartbeat import Heart, reading
from bot.types.engine import LoadProgress
from bot.types.errors import InhouseError

if TYPE_CHECKING:
    from bot.engine.server.engine_server import ModelHost

OOM_SCORE = 500
OOM_STEP, OOM_MOST = 100, 1000

log = logging.getLogger(__name__)


class Channel:
    """The connection's sending side; messages of two threads never mix."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Send it whole. If the connection is gone, so is this process."""
        frame = protocol.frame(message)
        try:
            with self._lock:
                self._connection.sendall(frame)
        except OSError:
            os._exit(0)


class Runner:
    """The main thread's work: one inbox of calls, and one frame for what they emitted."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._texts: list[Text] = []
        self._failed: list[Failed] = []
        self._load: Load | None = None
        self._asked = self._done = self._told = 0  # loads; what was told of them
        self.host: ModelHost | None = None
        self._heart = Heart(self._beat, lambda: self.host is not None and self.host.generating > 0)
        self._heart.watch(lambda: self.host is not None and self.host.preparing > 0, self._prepared)
        self._heart.watch(lambda: self._asked > self._done, lambda: (self._told, self._heart.steps, reading()))

    def post(self, call: Callable[[], None]) -> None:
        """Have it called on the main thread; from any thread."""
        self._inbox.put(call)

    def run(self) -> None:
        """Work until the process ends."""
        self._heart.start()
        from bot.engine.server.engine_server import ModelHost  # torch comes in here, long after the hello

        self.host = ModelHost(self.post, self._emit, self._heart.step)
        while True:
            call = self._inbox.get()
            with contextlib.suppress(Empty):
                while True:
                    call()
                    call = self._inbox.get_nowait()
            if self._texts or self._failed:
                step = Step(self._texts, self._failed)
                self._texts, self._failed = [], []
                self._channel.send(step)
            if self._load is not None and not self.host.running:
                self._do_load(self._load)
                self._load = None

    def hear(self, message: ToChild) -> None:
        """On the reader's thread: answer at once what needs no waiting, post the rest."""
        match message:
            case AskStats() if self.host is not None:
                self._channel.send(Stats(self.host.stats()))
            case _:
                self._asked += isinstance(message, Load)  # before torch is imported, which may take long as well
                self.post(partial(self._do, message))

    def _prepared(self) -> int:
        return self.host.prepared_steps if self.host is not None else 0

    def _beat(self) -> None:
        """On the heart's thread."""
        self._channel.send(Beat(self.host.grown() if self.host is not None else ""))

    def _emit(self, item: Text | Failed) -> None:
        if isinstance(item, Text):
            self._texts.append(item)
        else:
            self._failed.append(item)

    def _do(self, message: ToChild) -> None:
        assert self.host is not None
        match message:
            case Load():
                self._done += self._load is not None  # its caller gave up
                self._load = message  # once what was aborted has ended
            case Generate(stream, request):
                self.host.generate(stream, request)
            case Abort(stream):
                self.host.abort(stream)
            case AskStats():
                self._channel.send(Stats(self.host.stats()))

    def _do_load(self, load: Load) -> None:
        assert self.host is not None
        try:
            model = self.host.load(load.source, partial(self._tell, load.number))
        except InhouseError as error:
            self._channel.send(LoadFailed(load.number, str(error)))
        else:
            self._channel.send(Loaded(load.number, model))
        finally:
            self._done += 1

    def _tell(self, number: int, progress: LoadProgress) -> None:
        self._told += 1
        self._channel.send(Progress(number, progress))


def _read(connection: socket.socket, runner: Runner) -> None:
    """The reader's thread: hand on every message; end the process when there are no more, and whatever goes wrong."""
    try:
        while (message := protocol.receive(connection)) is not None:
            runner.hear(message)
        os._exit(0)
    except BaseException:
        log.exception("the engine cannot go on reading")
        sys.stderr.flush()
    finally:
        os._exit(1)


def _be_taken_first() -> None:
    """Linux ends the process with the highest score when memory runs out: this one, and not the service."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):  # there is no such file but on Linux
        inherited = int(score.read_text())  # anybody may raise it, and only root may lower it
        score.write_text(str(min(OOM_MOST, max(OOM_SCORE, inherited + OOM_STEP))))


def main() -> None:
    """Connect, say hello, serve; returns only by an error that ends the process."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in (signal.SIGINT, signal.SIGTERM):  # the parent decides when this ends, also at Ctrl-C in a terminal
        signal.signal(name, signal.SIG_IGN)
    _be_taken_first()
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
        log.exception("the engine ends")
        sys.stderr.flush()
        os._exit(1)  # other threads may be deep in torch: nothing waits for them


if __name__ == "__main__":
    main()
