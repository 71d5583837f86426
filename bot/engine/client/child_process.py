"""Starts the engine process and connects to it.

Logs the child's output line by line. Rejects a child whose hello is wrong, and kills a child that does not exit within
GRACE_SECONDS after the connection was closed.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import sys
from pathlib import Path
from typing import NamedTuple

from bot.config.settings import TOKENS
from bot.engine.client import protocol
from bot.engine.client.protocol import Hello, Message, ProtocolError, ToParent
from bot.types.errors import EngineDied

HELLO_SECONDS = 60.0
GRACE_SECONDS = 5.0
LINE_BYTES = 16 * 1024
"""Most bytes of one logged line; longer output without a line end is logged in pieces."""
OUTPUT_SECONDS = 5.0
"""Longest wait for the rest of the output; a process that the child started may keep it open."""
NOT_READY = "The engine's process ended before it was ready; the log says why."
SECRET_VARIABLES = (*TOKENS.values(), "HUGGING_FACE_HUB_TOKEN")
"""Variables removed from the child's environment: all tokens, including a name that only huggingface_hub reads."""

SENT_FROM_OUTSIDE = {-9: "SIGKILL", -15: "SIGTERM"}
"""Return codes of a process that was ended by another process or the kernel; a crash has other signals."""

log = logging.getLogger("inhouse.engine")


class ChildExit(NamedTuple):
    """How a child ended. signal_from_outside: SIGKILL or SIGTERM that we did not send, else ''."""

    description: str
    signal_from_outside: str


class ChildProcess:
    """One child process and its connection, from its hello to its exit."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        logging_task: "asyncio.Task[None]",
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._logging = logging_task
        self._ended_by_us = False
        self._lost = False  # the child's end of the connection was closed, before ours

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @classmethod
    async def open(cls) -> "ChildProcess":
        """Start a child and wait for its hello. Raises EngineDied if there is none within HELLO_SECONDS."""
        secret = secrets.token_hex(32)
        arrived: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        arrived = asyncio.get_running_loop().create_future()

        connections: set[asyncio.StreamWriter] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(writer)
            if not arrived.done() and await read_hello(reader, secret) and not arrived.done():
                arrived.set_result((reader, writer))
            else:
                writer.close()

        try:
            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            try:
                process = await _start(server.sockets[0].getsockname()[1], secret)
            except BaseException:
                server.close()
                raise
        except OSError as error:  # no memory, or too many processes or open files
            raise EngineDied(f"The engine's process cannot be started: {error.strerror or error}.") from error
        logging_task = asyncio.create_task(_log_output(process))
        ended = asyncio.create_task(process.wait())
        ended.add_done_callback(lambda _: None if arrived.done() else arrived.set_exception(EngineDied(NOT_READY)))
        try:
            reader, writer = await asyncio.wait_for(arrived, HELLO_SECONDS)
            connections.discard(writer)
            child = cls(process, reader, writer, logging_task)
        except BaseException as error:
            await _end(process, 0.0)
            await asyncio.wait([logging_task], timeout=OUTPUT_SECONDS)
            if isinstance(error, TimeoutError):
                raise EngineDied(NOT_READY) from error
            raise
        finally:
            ended.cancel()
            server.close()
            for other in connections:  # without a hello, or of a child that is given up
                other.close()
        return child

    async def send(self, message: Message) -> None:
        """Send a message. Raises EngineDied if the connection is gone, ProtocolError if the message is too long."""
        try:
            self._writer.write(protocol.frame(message))
            await self._writer.drain()
        except (OSError, RuntimeError) as error:
            raise EngineDied("The engine's process is gone.") from error

    async def receive(self) -> ToParent | None:
        """Return the next message, or None when the connection ended. Raises ProtocolError."""
        try:
            header = await self._reader.readexactly(protocol.HEADER)
            body = await self._reader.readexactly(protocol.body_length(header))
        except (asyncio.IncompleteReadError, OSError):
            self._lost = True
            return None
        return protocol.read_by_parent(body)

    def kill(self) -> None:
        """Kill the child immediately."""
        self._ended_by_us = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def close(self) -> ChildExit:
        """Close the connection, kill the child if it does not exit within GRACE_SECONDS, and return how it ended."""
        self._writer.transport.abort()  # close() would first send what a child that hangs does not read
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        await _end(self._process, GRACE_SECONDS)
        await asyncio.wait([self._logging], timeout=OUTPUT_SECONDS)
        code = self._process.returncode or 0
        description = f"by signal {-code}" if code < 0 else f"with status {code}"
        # A child that is exiting already keeps its return code when GRACE_SECONDS have passed and it is killed.
        from_outside = self._lost and not self._ended_by_us
        return ChildExit(description, SENT_FROM_OUTSIDE.get(code, "") if from_outside else "")


async def _start(port: int, secret: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bot.engine.server.runner"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=_environment(port, secret),
    )


async def read_hello(reader: asyncio.StreamReader, secret: str) -> bool:
    """Check that the first message on a connection is our child's hello."""
    try:
        header = await reader.readexactly(protocol.HEADER)
        if protocol.body_length(header) > 1024:
            return False
        hello = protocol.read_by_parent(await reader.readexactly(protocol.body_length(header)))
    except (asyncio.IncompleteReadError, OSError, ProtocolError):
        return False
    if not isinstance(hello, Hello) or not secrets.compare_digest(hello.secret.encode(), secret.encode()):
        return False
    if hello.version != protocol.VERSION:
        log.error("the engine's process speaks version %s, not %s", hello.version, protocol.VERSION)
    return hello.version == protocol.VERSION


def _environment(port: int, secret: str) -> dict[str, str]:
    return child_environment() | {protocol.PORT_VARIABLE: str(port), protocol.SECRET_VARIABLE: secret}


def child_environment() -> dict[str, str]:
    """Build a child's environment: ours without tokens, the hub offline, and this package first on PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    here = str(Path(__file__).resolve().parents[3])
    path = environment.get("PYTHONPATH")
    return environment | {
        "PYTHONPATH": os.pathsep.join([here, path] if path else [here]),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


async def _log_output(process: asyncio.subprocess.Process) -> None:
    """Log the child's output line by line until it ends."""
    assert process.stdout is not None
    rest = b""
    while chunk := await process.stdout.read(LINE_BYTES):
        *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        if len(rest) >= LINE_BYTES:
            lines.append(rest)
            rest = b""
        for line in lines:
            _log_line(line)
    _log_line(rest)


def _log_line(line: bytes) -> None:
    if line.strip():
        log.info("%s", line.decode("utf-8", "replace").rstrip())


async def _end(process: asyncio.subprocess.Process, grace_s: float) -> None:
    """Wait `grace_s` seconds for the child to exit, then kill it."""
    try:
        await asyncio.wait_for(process.wait(), grace_s)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
