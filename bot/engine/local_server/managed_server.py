"""Starts one server as a child, waits until it can be used, watches it, and stops it with all its processes.

The child is a supervisor (bot.engine.local_server.supervisor), the leader of a process group with the server, which is
killed as a whole: also when this process is killed.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from bot.engine.client.child_process import SENT_FROM_OUTSIDE
from bot.engine.local_server.server_commands import ServerCommand
from bot.engine.local_server.server_log import ServerLog
from bot.engine.local_server.supervisor import STATUS
from bot.engine.oom_score import raised_oom_score
from bot.types.engine import LoadProgress
from bot.types.errors import EngineDied, ModelError

SUPERVISOR = Path(__file__).with_name("supervisor.py")
ASK_EVERY_S = 0.25
"""Interval at which a starting server is asked whether it can be used."""
HEALTH_S = 5.0
GRACE_S = 10.0
"""Time that a server has to end after SIGTERM."""
OUTPUT_S = 5.0
"""Longest wait for the rest of the output; a process that left the group may keep it open."""
LINE_BYTES = 16 * 1024
MB = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerExit:
    """How a server ended. signal_from_outside: SIGKILL or SIGTERM that Inhouse did not send, else ''."""

    status: int
    signal_from_outside: str

    def __str__(self) -> str:
        return f"by signal {-self.status}" if self.status < 0 else f"with status {self.status}"


class ManagedServer:
    """One server, from its start to its end. name: the model's. hung_s: silence after which it counts as hung."""

    def __init__(self, command: ServerCommand, name: str, hung_s: float) -> None:
        self.command, self._name, self._hung_s = command, name, hung_s
        self.key = secrets.token_hex(32)
        self.port = free_port()
        self.log = ServerLog(command.title, name, self.key)
        self.exited: asyncio.Future[ServerExit] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.SubprocessTransport | None = None
        self._ended_by_us = False
        self._status: int | None = None  # as the supervisor reports it

    @property
    def url(self) -> str:
        """The base of its API."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def pid(self) -> int:
        """The process id of the supervisor, which is the id of the process group."""
        return self._transport.get_pid() if self._transport is not None else 0

    async def start(self) -> None:
        """Start the process. Raises EngineDied if that is not possible."""
        try:
            self._transport, _ = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Output(self._line, self._note_exit),
                *(sys.executable, "-I", str(SUPERVISOR), raised_oom_score()),
                *self.command.at(self.port),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**self.command.environment, self.command.key_variable: self.key},
                start_new_session=True,
            )
        except OSError as error:  # no memory, or too many processes or open files
            raise EngineDied(f"The model's server cannot be started: {error.strerror or error}.") from error

    async def wait_ready(self, progress: Callable[[LoadProgress], None]) -> None:
        """Wait until it can be used. Raises ModelError with the cause if it ends or hangs, or EngineDied.

        EngineDied is for an end that may not happen again: by a signal from outside, or without a known cause.
        """
        timeout = aiohttp.ClientTimeout(total=HEALTH_S)
        shown: LoadProgress | None = None
        usage, active = _Usage(0, 0.0), (-1, _Usage(0, 0.0))
        since = time.monotonic()
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not self.exited.done():
                step = LoadProgress(self.log.stage, self._fraction(usage.resident_mb))
                if step != shown:
                    progress(step)
                    shown = step
                if await self._answers(session, "/health"):
                    await self._check_port()
                    return
                usage = await asyncio.to_thread(self._usage)  # reads /proc of all processes of the machine
                if (seen := (self.log.lines, usage)) != active:
                    active, since = seen, time.monotonic()
                elif time.monotonic() - since > self._hung_s:
                    await self.stop(0.0)
                    raise ModelError(
                        f"Loading {self._name} made no progress for {self._hung_s:.0f} s at '{self.log.stage}' and was"
                        " stopped. Check that its files can be read, or choose another model."
                    )
                await asyncio.wait([self.exited], timeout=ASK_EVERY_S)
        raise self._load_error(self.exited.result())

    async def wait_hung(self) -> None:
        """Return once the server has not answered for `hung_s`; it must be ready. Waits for ever while it answers."""
        timeout = aiohttp.ClientTimeout(total=self._hung_s)
        pause = min(5.0, self._hung_s / 4)
        silent_s = 0.0
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while silent_s < self._hung_s:
                await asyncio.sleep(pause)
                began = time.monotonic()
                if await self._answers(session, self.command.health):
                    silent_s = 0.0
                else:
                    silent_s += pause + time.monotonic() - began

    async def works(self) -> bool:
        """Whether it answers now, or at least within `hung_s`."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._hung_s)) as session:
            return await self._answers(session, self.command.health)

    def kill(self) -> None:
        """Kill all its processes at once."""
        self._ended_by_us = True
        self._kill_group()

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """End it by SIGTERM, and by SIGKILL of all its processes after `grace_s`; returns once it is gone."""
        self._ended_by_us = True
        if self._transport is None or self.exited.done():
            return
        if grace_s:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)  # the supervisor passes it on; terminate() could reap it unseen
            await asyncio.wait([self.exited], timeout=grace_s)
        self._kill_group()
        await asyncio.wait([self.exited])  # a caller's cancellation must not cancel `exited`, which others wait for

    @property
    def resident_mb(self) -> int:
        """Resident memory of all its processes."""
        return self._usage().resident_mb

    @property
    def mapped_mb(self) -> int:
        """The part of it that is mapped from files."""
        return sum(_memory(process, "shared") for process in self._family()) // MB

    async def _answers(self, session: aiohttp.ClientSession, path: str) -> bool:
        headers = {"Authorization": f"Bearer {self.key}"}
        try:
            async with session.get(f"http://127.0.0.1:{self.port}{path}", headers=headers) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
            return False

    def _fraction(self, resident_mb: int) -> float:
        """Progress of the load; llama.cpp does not log it, and maps its file into memory."""
        mapped = resident_mb / self.command.weights_mb if self.command.weights_mb else 0.0
        return max(self.log.fraction, round(min(0.95, mapped), 2) if self.command.slots else 0.0)

    async def _check_port(self) -> None:
        """Raise EngineDied if another program took the port first: it must get no questions."""
        if await asyncio.to_thread(self._listens):
            return
        if not self.exited.done():
            self.kill()
        raise EngineDied("The model's server did not get its port; another program has it.", external=True)

    def _listens(self) -> bool:
        """Whether a process of the server has the port."""
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                for each in process.net_connections("tcp"):
                    if each.status == psutil.CONN_LISTEN and each.laddr.port == self.port:
                        return True
        return False

    def _load_error(self, ended: ServerExit) -> Exception:
        title, name = self.command.title, self._name
        if self.log.port_was_taken:
            return EngineDied(f"{title} did not get its port; another program has it.", external=True)
        if ended.signal_from_outside:
            return EngineDied(f"{title} was killed from outside ({ended.signal_from_outside}).", external=True)
        cause = self.log.cause()
        if not cause and ended.status == -signal.SIGILL:
            cause = f"this build of {title} needs instructions that this processor lacks"
        if cause:
            return ModelError(f"{title} cannot load {name}: {cause}.")
        self.log.show_end()
        return EngineDied(f"{title} ended {ended} while it loaded {name}; the log of Inhouse has its last lines.")

    def _line(self, line: str) -> None:
        if line.startswith(STATUS):
            with contextlib.suppress(ValueError):
                self._status = int(line.removeprefix(STATUS))
        else:
            self.log.add(line)

    def _note_exit(self, code: int) -> None:
        status = self._status if self._status is not None else code
        outside = "" if self._ended_by_us else SENT_FROM_OUTSIDE.get(status, "")
        if not self.exited.done():
            self.exited.set_result(ServerExit(status, outside))

    def _kill_group(self) -> None:
        if self._transport is not None and self._transport.get_returncode() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _family(self) -> Iterator[psutil.Process]:
        """The server's processes, without the supervisor."""
        with contextlib.suppress(psutil.Error):
            if self._transport is not None and self._transport.get_returncode() is None:
                yield from psutil.Process(self.pid).children(recursive=True)

    def _usage(self) -> "_Usage":
        resident, cpu = 0, 0.0
        for process in self._family():
            resident += _memory(process, "rss")
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu += times.user + times.system
        return _Usage(resident // MB, round(cpu, 1))


class _Output(asyncio.SubprocessProtocol):
    """Passes on the lines of the supervisor's output, and its return code once it and the output have ended.

    Kills what is left of its process group when it ends. asyncio's own Process waits for the output's end as well,
    which does not come if the supervisor alone is killed.
    """

    def __init__(self, on_line: Callable[[str], None], on_exit: Callable[[int], None]) -> None:
        self._on_line, self._on_exit = on_line, on_exit
        self._rest = b""
        self._transport: asyncio.SubprocessTransport | None = None
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        """Split the output into lines; progress bars end theirs with a carriage return."""
        assert isinstance(data, bytes)
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) >= LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._on_line(line.decode("utf-8", "replace"))

    def process_exited(self) -> None:
        """Kill the rest of the group; a process that left the group may keep the output open."""
        assert self._transport is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._transport.get_pid(), signal.SIGKILL)
        self._late = asyncio.get_running_loop().call_later(OUTPUT_S, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the last line and the return code."""
        assert self._transport is not None
        if self._late is not None:
            self._late.cancel()
        self._on_line(self._rest.decode("utf-8", "replace"))
        self._transport.close()
        self._on_exit(self._transport.get_returncode() or 0)


@dataclass(frozen=True, slots=True)
class _Usage:
    """What all processes of a server use; changes while it loads."""

    resident_mb: int
    cpu_s: float


def _memory(process: psutil.Process, kind: str) -> int:
    with contextlib.suppress(psutil.Error):
        return int(getattr(process.memory_info(), kind, 0))
    return 0


def free_port() -> int:
    """A TCP port of loopback that no program has now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
