"""Implements the Engine protocol (bot.types.engine) with servers that run on this machine as children of Inhouse.

One server has one model. `load` starts a server, or finds the model's one among those that stay in memory; answers come
through a RemoteEngine. A server that ends or hangs fails its answers with EngineDied, and the next load replaces it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from bot.config.settings import Settings
from bot.engine.client.process import ENDED, HUNG_S, KILLED, NOT_RUNNING, SuspendDetector, suspended_s
from bot.engine.client.request_validation import check_id
from bot.engine.local_server.gpu_memory import GpuMemory
from bot.engine.local_server.managed_server import MB, ManagedServer, ServerExit
from bot.engine.local_server.server_commands import ServerCommand, ServerCommands
from bot.engine.local_server.server_log import NO_MEMORY
from bot.engine.memory.available_memory import left_of
from bot.engine.memory.leak_detector import LeakDetector, MemoryUsage
from bot.engine.remote.prompt_client import START_S
from bot.engine.remote.remote_engine import RemoteEngine
from bot.models.control_groups import group_bounds
from bot.types.engine import EngineRequest, EngineStats, LoadedModel, LoadProgress, ModelSource
from bot.types.errors import EngineDied, EngineError, ModelError, NoServer, ServerLost
from bot.types.messages import FinishReason, TokenDelta

log = logging.getLogger("inhouse.engine")

ATTEMPTS = 3
"""Starts of a server whose port another program takes each time."""
CONNECT_S = 60.0 + START_S
"""A server that is healthy has to list its model within this time, in which the tokenizer's process starts, too."""
USABLE_S = 60.0
"""Longest wait after a failure of a server that works; its client asks it again after at most half of it."""
SERVER_MB = 400
"""Memory of a server of llama.cpp besides weights and KV cache."""
GPU_SHARE = 0.9
"""Share of the free GPU memory that the next server may need."""
ENDING_S = 5.0
"""A server that refuses connections ends within this time; otherwise it counts as hung."""
MEASURE_S = 10.0
"""Interval at which the memory of an idle server is measured."""


@dataclass(eq=False, slots=True)
class _Managed:
    """A server in memory with its model. `watching`: its watch, which ends with it.

    running: its requests, and for each an event that is set to stop it.
    """

    source: ModelSource
    server: ManagedServer
    remote: RemoteEngine
    leaks: LeakDetector
    model: LoadedModel | None = None
    watching: asyncio.Task[None] | None = None
    hung: bool = False
    running: dict[str, asyncio.Event] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        return not self.server.exited.done()


class LocalServerEngine:
    """An Engine on servers of this machine. Belongs to one event loop; call `close` at the end.

    hung_s: silence after which a server counts as hung, seconds. available_mb: measures the memory that may be taken.
    """

    def __init__(
        self,
        commands: ServerCommands,
        *,
        hung_s: float = HUNG_S,
        salts: bool = True,
        available_mb: Callable[[], int] | None = None,
    ) -> None:
        self._commands, self._hung_s, self._salts = commands, hung_s, salts
        self._available_mb = available_mb or _available_mb
        self._servers: list[_Managed] = []  # the one used last comes last
        self._current: _Managed | None = None
        self._lock = asyncio.Lock()
        self._suspends = SuspendDetector(suspended_s)
        self._gpu = GpuMemory()
        self._unhealthy = asyncio.Event()
        self._unhealthy_reason = ""

    @classmethod
    def of(cls, settings: Settings) -> "LocalServerEngine":
        """The engine of these settings. Raises ConfigError if the server's program is missing."""
        return cls(ServerCommands(settings), salts=settings.engine_salts)

    @property
    def servers(self) -> Mapping[str, ManagedServer]:
        """The servers in memory by their models' names, the one used last comes last."""
        return {each.source.name: each.server for each in self._servers if each.alive}

    async def load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        """Make `source` current: start its server unless it runs. Raises ModelError, EngineDied or EngineError."""
        async with self._lock:
            if any(each.running for each in self._servers):
                raise EngineError("A model cannot be loaded while answers are being generated.")
            began = time.monotonic()
            self._current = None
            self._unhealthy.clear()
            await self._drop([each for each in self._servers if not each.alive])
            found = next((each for each in self._servers if each.source == source), None)
            if found is None:
                found = await self._start(source, progress)
            else:
                self._servers.remove(found)
                self._servers.append(found)
            if not found.alive:
                raise self._death(found, found.server.exited.result())
            self._current = found
            assert found.model is not None
            kept = tuple(each.source.name for each in reversed(self._servers))
            return replace(found.model, load_s=time.monotonic() - began, resident=kept)

    async def stream(self, request: EngineRequest) -> AsyncGenerator[TokenDelta, None]:
        """Yield the deltas of one generation. Closing the iterator aborts it. Raises RequestFailed or EngineDied."""
        current = self._current
        if current is None or not current.alive:
            raise EngineDied(NOT_RUNNING, external=True)
        check_id(request.request_id, current.running)
        stop = current.running[request.request_id] = asyncio.Event()
        try:
            async with contextlib.aclosing(current.remote.stream(request)) as deltas:
                async for delta in deltas:
                    yield delta
        except (ServerLost, NoServer) as error:
            finding = asyncio.create_task(self._cause(current, error))
            stopping = asyncio.create_task(stop.wait())
            try:
                await _first(finding, stopping)
                if not stop.is_set():
                    raise finding.result() from error
            finally:
                await _cancelled(stopping)
                await _cancelled(finding)
            yield TokenDelta(request.request_id, "", FinishReason.ABORT)
        finally:
            del current.running[request.request_id]

    async def abort(self, request_id: str) -> None:
        """Stop a running generation; an unknown id is ignored."""
        for managed in self._servers:
            if (stop := managed.running.get(request_id)) is not None:
                stop.set()
            await managed.remote.abort(request_id)

    async def stats(self) -> EngineStats:
        """Current statistics; the memory is that of all servers. Raises EngineDied if the current one has ended."""
        current = self._current
        if current is None or not current.alive:
            raise EngineDied(NOT_RUNNING, external=True)
        alive = [each for each in self._servers if each.alive]
        resident_mb = await asyncio.to_thread(lambda: sum(each.server.resident_mb for each in alive))
        gpu_used_mb, gpu_total_mb = await self._gpu.mb() if current.source.device != "cpu" else (0, 0)
        try:
            measured = await current.remote.stats()
        except NoServer:  # it is slow to answer now
            measured = EngineStats(current.source.name, len(current.running), 0.0, 0, 0, 0, 0, 0)
        return replace(
            measured,
            resident_mb=resident_mb,
            gpu_used_mb=gpu_used_mb,
            gpu_total_mb=gpu_total_mb,
            memory_limit_mb=sum(each.leaks.limit_mb for each in alive),
            resident=tuple(each.source.name for each in reversed(alive)),
        )

    async def wait_until_unhealthy(self) -> str:
        """Wait until the current server ended, hung, or leaked memory while idle. Returns the reason."""
        await self._unhealthy.wait()
        self._unhealthy.clear()
        return self._unhealthy_reason

    async def close(self) -> None:
        """Stop all servers; running streams raise EngineDied."""
        self._current = None  # not a failure to report
        await self._drop(list(self._servers))

    async def _start(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> _Managed:
        """Start a server for a model, after room was made for it."""
        stale = [each for each in self._servers if each.source.name == source.name]
        await self._drop(stale)
        command = await asyncio.to_thread(self._commands.command, source)
        await self._make_room(command)
        ports = 1
        while True:
            managed = self._new(source, command)
            try:
                await self._bring_up(managed, progress)
                return managed
            except EngineDied:
                if not managed.server.log.port_was_taken or ports == ATTEMPTS:
                    raise
                ports += 1
                log.info("%s starts again on another port", command.title)
            except ModelError:
                if not self._servers or managed.server.log.cause() != NO_MEMORY:
                    raise
                log.info("%s is tried again without other models in memory", source.name)
                await self._drop(list(self._servers))

    def _new(self, source: ModelSource, command: ServerCommand) -> _Managed:
        server = ManagedServer(command, source.name, self._hung_s)
        remote = RemoteEngine((server.url,), server.key, salts=self._salts)
        leaks = LeakDetector(lambda: MemoryUsage(server.resident_mb, 0), lambda: None)
        managed = _Managed(source, server, remote, leaks)
        self._servers.append(managed)
        return managed

    async def _bring_up(self, managed: _Managed, progress: Callable[[LoadProgress], None]) -> None:
        """Start a server and connect to it; it is gone if this fails."""
        server, source, began = managed.server, managed.source, time.monotonic()
        try:
            await server.start()
            await server.wait_ready(progress)
            loaded = await self._connected(managed)
            await asyncio.to_thread(managed.leaks.begin, source.kv_offload_mb)
        except BaseException:
            await self._drop([managed])
            raise
        command = server.command
        managed.model = LoadedModel(
            name=source.name,
            device=command.title,
            dtype=command.dtype,
            context_window=loaded.context_window,
            batching=True,
            max_running=loaded.max_running,
            weights_mb=command.weights_mb,
            kv_cache_mb=command.kv_cache_mb,
            kv_cache_tokens=command.kv_cache_tokens or server.log.cache_tokens,
            load_s=time.monotonic() - began,
            note=loaded.note,
            capabilities=loaded.capabilities,
        )
        managed.watching = asyncio.create_task(self._watch(managed), name=f"{command.title} for {source.name}")

    async def _connected(self, managed: _Managed) -> LoadedModel:
        """Let the client find out what the server offers. Raises EngineDied."""
        server = managed.server
        folder = Path(managed.source.path)
        tokenizer = str(folder) if (folder / "tokenizer_config.json").is_file() else ""
        there = replace(managed.source, path=server.command.alias, tokenizer=tokenizer)
        loading = asyncio.create_task(managed.remote.load(there, lambda _: None))
        try:
            await _first(loading, server.exited, within_s=CONNECT_S)
            if loading.done():
                return loading.result()
        finally:
            await _cancelled(loading)
        if server.exited.done():
            raise self._death(managed, server.exited.result())
        raise EngineDied(f"{server.command.title} is running and does not offer its model.")

    async def _make_room(self, command: ServerCommand) -> None:
        """Stop the servers used longest ago until the next one fits; all of them where it may not be measured."""
        need = command.weights_mb + command.kv_cache_mb + SERVER_MB
        while self._servers:
            if command.several and need <= await asyncio.to_thread(self._room, command):
                return
            oldest = self._servers[0]
            log.info("%s leaves the memory for the next model", oldest.source.name)
            await self._drop([oldest])

    def _room(self, command: ServerCommand) -> int:
        """MB that the next server may take of the RAM or the GPU, beside those that run."""
        if command.on_gpu:
            return int((self._commands.gpu_free_mb() or 0) * GPU_SHARE)
        return self._available_mb() - sum(each.server.mapped_mb for each in self._servers)

    async def _drop(self, servers: list[_Managed]) -> None:
        """Stop servers and forget them."""
        for managed in servers:
            if managed in self._servers:
                self._servers.remove(managed)
            if managed.watching is not None:
                managed.watching.cancel()
        await asyncio.shield(asyncio.gather(*(_stopped(managed) for managed in servers)))

    async def _watch(self, managed: _Managed) -> None:
        """Wait for the end of a server; kill it if it hangs. Report what happened to the current one."""
        server = managed.server
        hanging = asyncio.create_task(server.wait_hung())
        try:
            while not server.exited.done():
                await _first(server.exited, hanging, within_s=MEASURE_S)
                self._suspends.recent()
                if hanging.done() and not server.exited.done():
                    self._kill_hung(managed)
                    await _first(server.exited)
                elif not server.exited.done() and not managed.running:
                    grown = await asyncio.to_thread(managed.leaks.grown)
                    if grown and not managed.running:
                        self._report_unhealthy(managed, grown)
            ended = server.exited.result()
            log.info("%s (%s) ended %s", server.command.title, managed.source.name, ended)
            if not (ended.signal_from_outside or managed.hung or server.log.cause()):
                server.log.show_end()
            self._report_unhealthy(managed, str(self._death(managed, ended)))
        finally:
            await _cancelled(hanging)

    def _kill_hung(self, managed: _Managed) -> None:
        server = managed.server
        log.error(
            "%s (%s) did not answer for %.0f s and is killed",
            *(server.command.title, managed.source.name, self._hung_s),
        )
        managed.hung = True
        server.kill()

    def _report_unhealthy(self, managed: _Managed, reason: str) -> None:
        if managed is self._current:
            self._unhealthy_reason = reason
            self._unhealthy.set()

    async def _cause(self, managed: _Managed, error: ServerLost | NoServer) -> EngineDied:
        """Why an answer failed: the server's end, its hang, or `error` if it still works."""
        server = managed.server
        working = asyncio.create_task(server.works())
        try:
            await _first(working, server.exited)
            if not server.exited.done() and not working.result():  # it is about to end, or it hangs
                await _first(server.exited, within_s=ENDING_S)
                if not server.exited.done():
                    self._kill_hung(managed)
                    await _first(server.exited)
            if not server.exited.done() and managed in self._servers:
                await self._until_usable(managed)
            if not server.exited.done():
                return ServerLost(str(error))  # the caller would load the model again for NoServer
            return self._death(managed, server.exited.result())
        finally:
            await _cancelled(working)

    async def _until_usable(self, managed: _Managed) -> None:
        """Wait until the client asks a server again that failed, at most USABLE_S; a caller would repeat at once."""
        usable = asyncio.create_task(managed.remote.pool.wait_for(managed.server.command.alias, lambda _: None))
        try:
            await _first(usable, managed.server.exited, within_s=USABLE_S)
        finally:
            await _cancelled(usable)

    def _death(self, managed: _Managed, ended: ServerExit) -> EngineDied:
        """The error for the calls of a server that ended like this."""
        if ended.signal_from_outside and not managed.hung:
            return EngineDied(KILLED.format(ended.signal_from_outside), external=True)
        if cause := managed.server.log.cause():
            log.error("%s ended: %s.", managed.server.command.title, cause)
        return EngineDied(ENDED, external=self._suspends.recent())


async def _first(*waits: asyncio.Future[Any], within_s: float | None = None) -> None:  # Any: of any results
    """Wait until one of them is done, at most `within_s` seconds; cancels none."""
    await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)


async def _cancelled(task: asyncio.Task[Any]) -> None:  # Any: of any result
    """Cancel a task and wait for its end, in which it closes its connections."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _stopped(managed: _Managed) -> None:
    """Close the client and stop the server."""
    try:
        await managed.remote.close()
    finally:
        await managed.server.stop()
    if managed.watching is not None:
        await asyncio.gather(managed.watching, return_exceptions=True)


def _available_mb() -> int:
    """RAM that may be taken, MB: of the machine and of the control groups around this process, less a reserve."""
    machine = psutil.virtual_memory()
    return min(left_of(*bounds) for bounds in [(machine.available, machine.total), *group_bounds(Path("/"))]) // MB
