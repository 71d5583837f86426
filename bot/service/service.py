"""The composition root: build the parts, recover requests of an earlier process, serve, and drain.

A service runs until its adapters return or `stop` is called. It notifies the process's supervisor of each step
(`bot.observability.systemd_notify`), and a thread watches the event loop (`bot.observability.loop_watchdog`).
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack

from bot.config.settings import Settings
from bot.conversations.backfill import Backfill
from bot.conversations.conversations import Conversations
from bot.conversations.request_queue import RequestQueue
from bot.core.actions import Actions
from bot.core.core import ServiceCore
from bot.core.info_commands import InfoCommands
from bot.core.presence import Presence
from bot.core.settings_commands import SettingsCommands
from bot.generation.queue_status import QueueStatus
from bot.generation.worker import Worker
from bot.hosts.handover import Handover
from bot.hosts.host_watch import HostWatch
from bot.models.catalog import Catalog
from bot.models.installed_models import InstalledModels
from bot.models.runtime_config import RuntimeConfig
from bot.observability.loop_watchdog import LoopWatchdog
from bot.observability.metrics import Metrics
from bot.observability.systemd_notify import Notifier
from bot.platforms.adapter import Adapter, Reloading
from bot.platforms.instrumented_adapter import InstrumentedAdapter
from bot.platforms.turns import Always, Never, while_held
from bot.replies.replies import GIVEN_UP, SHOWN_AGAIN, Replies
from bot.service.missed_messages import MissedMessages
from bot.service.opening import open_storage
from bot.service.retention import Retention
from bot.service.turns import EVERYWHERE, LeasedTurns
from bot.storage import Storage, StoredReply
from bot.types.engine import Engine, ModelServers
from bot.types.errors import ConfigError, FatalAdapterError, ModelError, StorageError
from bot.types.messages import FinishReason, GenerationRequest
from bot.web.live_state import LiveState
from bot.web.server import WebServer

log = logging.getLogger(__name__)

LIST_EVERY_S = 2.0
"""Interval at which the models that the engine's servers offer are listed."""
LAST_WORDS_S = 5.0
"""Timeout for delivering final texts at shutdown, seconds."""


class Service:
    """The service of one host. Call `run` once."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        adapters: Sequence[Adapter],
        engine: Engine,
        notifier: Notifier | None = None,
    ) -> None:
        self._current, self._engine = RuntimeConfig(settings, catalog), engine
        self._adapters = {adapter.platform: adapter for adapter in adapters}
        self._metrics = Metrics()
        self._instrumented = {
            adapter.platform: InstrumentedAdapter(adapter, self._metrics, lambda: self._storage.holds_claim)
            for adapter in adapters
        }
        self._installed_models = InstalledModels(self._current)
        self._queue = RequestQueue(settings.queue_size, settings.per_user)
        self._notifier = notifier or Notifier()
        self._stopping, self._hurrying = asyncio.Event(), asyncio.Event()
        self._refused: dict[str, str] = {}  # platforms with a fatal error, and its message
        self.web: WebServer | None = None
        self._watchdog = LoopWatchdog()
        self._turns: LeasedTurns | None = None  # of several hosts

    async def run(self) -> None:
        """Serve until every adapter has returned or `stop` is called, then drain.

        Raises StorageError, and ConfigError if the model cannot be loaded, the state directory is in use, or a platform
        refuses its token before its first connection or as the last platform left.
        """
        self._watchdog.start()
        try:
            storage = await open_storage(self._current.settings, self._stopping, self._notifier)
            if storage is None:
                return
            try:
                if self._works:
                    self._installed_models.locate(self._current.catalog.default)  # before a platform sees a session
                self.web = self._assemble(storage)
                async with AsyncExitStack() as stack:
                    if storage.hosts.this:
                        turns = LeasedTurns.of(storage, lambda: self._hosts.others)
                        self._turns = await stack.enter_async_context(turns)
                    await stack.enter_async_context(self.web)
                    await self._recover()
                    await self._serve()
            finally:
                await self._engine.close()
                await storage.close()
        except ModelError as error:
            raise ConfigError(str(error)) from error
        finally:
            self._watchdog.stop()

    def stop(self) -> None:
        """Start draining; a second call cuts the drain short."""
        (self._hurrying if self._stopping.is_set() else self._stopping).set()

    def must_end(self) -> None:
        """Have the watchdog end the process after the drain time even if the loop is blocked. For signal handlers."""
        self._watchdog.end_within(self._current.settings.drain + LAST_WORDS_S)

    def reload(self, settings: Settings, catalog: Catalog) -> list[str]:
        """Apply new settings and catalog; return the changed variables that need a restart."""
        late = self._current.swap(settings, catalog)
        now = self._current.settings
        self._queue.bound(now.queue_size, now.per_user)
        for adapter in self._adapters.values():
            if isinstance(adapter, Reloading):
                adapter.reload(now)
        return late

    @property
    def _works(self) -> bool:
        """Whether this host writes answers."""
        return "worker" in self._current.settings.roles

    @property
    def _listens(self) -> bool:
        """Whether this host receives events."""
        return "adapters" in self._current.settings.roles

    def _is_elsewhere(self, platform: str) -> bool:
        """Whether another host has the turn to receive a platform's events."""
        return not self._listens or (self._turns is not None and not self._turns.holds_any(platform))

    def _assemble(self, storage: Storage) -> WebServer:
        current, installed_models = self._current, self._installed_models
        self._storage = storage
        queue = self._queue
        self._replies = Replies(storage, self._instrumented, self._metrics, lambda: current.settings.link_hosts)
        queue.on_put(self._replies.open)
        conversations = Conversations(current, storage, queue, lambda key: self._hosts.holder(key))
        self._conversations = conversations
        handover = Handover(storage, queue, self._replies, frozenset(self._adapters))
        self._worker = Worker(
            self._engine,
            queue,
            storage,
            self._replies,
            conversations,
            installed_models.locate,
            current.catalog.default,
            self._metrics,
            handover.take,
            self._seeing,
        )
        self._handover = handover
        shared = self._adapters.keys() & EVERYWHERE if self._listens else set()
        self._missed = MissedMessages(shared, lambda platform, since: self._core.read_again(platform, since))
        self._hosts = HostWatch(
            storage,
            queue,
            handover,
            self._worker,
            self._replies,
            self._resume,
            self._missed.read_later,
            current,
            installed_models,
        )
        self._queue_status = QueueStatus(current, storage, queue, self._replies, self._worker, self._hosts.slots)
        settings_commands = SettingsCommands(current, storage, conversations, installed_models, self._worker.loader)
        info_commands = InfoCommands(
            storage, conversations, queue, self._worker, self._engine, installed_models, self._hosts.summary
        )
        prefixes = {platform: adapter.limits.prefix for platform, adapter in self._adapters.items()}
        actions = Actions(
            current,
            storage,
            queue,
            self._worker,
            self._replies,
            conversations,
            settings_commands,
            info_commands,
            prefixes,
            self._hosts.look_at_requests,
        )
        self._backfill = Backfill(current, storage)
        self._retention = Retention(current, storage)
        self._presence = Presence(queue, self._worker, self._engine, self._hosts.models)
        self._core = ServiceCore(
            current,
            storage,
            self._instrumented,
            conversations,
            actions,
            settings_commands,
            self._presence,
            self._backfill,
        )
        return WebServer(
            LiveState(
                current=current,
                engine=self._engine,
                installed_models=installed_models,
                queue=queue,
                worker=self._worker,
                queue_status=self._queue_status,
                conversations=conversations,
                actions=actions,
                core=self._core,
                backfill=self._backfill,
                adapters=self._instrumented,
                metrics=self._metrics,
                refusals=self._refused,
                stopping=self._stopping.is_set,
                elsewhere=self._is_elsewhere,
                hosts=lambda: len(self._hosts.others) + 1,
                slots=self._hosts.slots,
            )
        )

    def _seeing(self, model: str) -> str:
        """Name of a model other than `model` that people may switch to and that can see; '' if there is none."""
        if not isinstance(self._engine, ModelServers):
            return self._installed_models.seeing(model)
        seeing, catalog = set(self._engine.seeing), self._current.catalog
        return next((name for name in catalog.names if name != model and catalog.get(name).repo in seeing), "")

    async def _recover(self) -> None:
        """Resume what an earlier process of this host left."""
        unfinished = await self._storage.inbox.recover()
        await self._conversations.load()
        await self._backfill.load(self._adapters)
        await self._resume(unfinished, await self._storage.outbox.undelivered())
        if self._storage.hosts.this:
            await self._hosts.look()

    async def _resume(self, unfinished: Sequence[GenerationRequest], undelivered: Sequence[StoredReply]) -> None:
        """Resume what a process that has ended left; requests of platforms not served here stay stored.

        Gives up a request that was unfinished in more than SHOWN_AGAIN killed runs of the service.
        """
        self._replies.resume(undelivered)  # before the requests below add new ones
        for request in unfinished:
            if request.key.platform not in self._adapters:
                continue
            if request.service_runs > SHOWN_AGAIN:
                live = self._replies.open(request, recall=True)
                await live.finish(FinishReason.ERROR, error=GIVEN_UP)
            else:
                self._replies.open(request, recall=True)
                self._queue.put(request)

    async def _serve(self) -> None:
        queue_status = asyncio.create_task(self._queue_status.keep_updated(), name="queue status")
        stopping = asyncio.create_task(self._until_stopped(), name="stop")
        worker = asyncio.create_task(self._worker.run(), name="worker") if self._works else stopping
        taken = asyncio.create_task(self._until_taken(), name="database taken over")
        background = [
            asyncio.create_task(self._presence.watch(), name="speed"),
            asyncio.create_task(self._backfill.keep_saving(), name="cursors"),
            asyncio.create_task(self._keep_retention(), name="retention"),
            asyncio.create_task(self._notifier.keep_updated(self._status_line, self._all_reached), name="notifier"),
        ]
        if self._works:
            background += [
                asyncio.create_task(self._probe_hardware(), name="hardware"),
                asyncio.create_task(self._worker.keep_engine_healthy(), name="engine health"),
                asyncio.create_task(self._list_served_models(), name="served models"),
                asyncio.create_task(self._installed_models.keep_listed(), name="models"),
            ]
        if self._storage.hosts.this:
            background.append(asyncio.create_task(self._hosts.keep(), name="other hosts"))
        for task in background:
            task.add_done_callback(_ended)
        adapters = [asyncio.create_task(self._connect(adapter)) for adapter in self._instrumented.values()]
        served = asyncio.create_task(_all(adapters), name="adapters")
        ends = [worker, queue_status, stopping, taken, served]
        tasks = [*ends, *background]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if not done & {stopping, served}:
                raise RuntimeError("A task of the service ended early.")
        finally:
            self._notifier.stopping(self._current.settings.drain + LAST_WORDS_S)
            self._storage.stop_waiting()
            worker.cancel()
            await self._drain()
            tasks += [*adapters, *self._missed.tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._handover.close()
            await self._replies.wait_delivered(0)  # requests accepted during the drain stay stored for the next start
            await self._hand_back()

    async def _hand_back(self) -> None:
        try:
            await self._storage.outbox.hand_back()
        except StorageError as error:
            log.error("The clean end of this run could not be stored: %s", error)

    def _all_reached(self) -> bool:
        """Whether each platform is connected, was refused, or is another host's turn."""
        return all(self._state_of(platform) != "connecting" for platform in self._adapters)

    def _status_line(self) -> str:
        """The status line for systemd: 'phi-4 loaded · 2 waiting; discord: connected; slack: connecting'."""
        model, line = self._worker.loader.name, self._core.presence()
        if model and line.startswith(model):
            line = line.replace(model, f"{model} loaded", 1)
        return "; ".join([line, *(f"{name}: {self._state_of(name)}" for name in self._adapters)])

    def _state_of(self, platform: str) -> str:
        if platform in self._refused:
            return "refused"
        if self._is_elsewhere(platform):
            return "on another host"
        return "connected" if self.web is not None and self.web.live_state.connected(platform) else "connecting"

    async def _until_taken(self) -> None:
        """Wait until another host has declared this one dead; raises StorageError then."""
        try:
            await self._storage.until_taken()
        except StorageError:
            self._hurrying.set()  # nothing can be stored any more
            raise

    async def _until_stopped(self) -> None:
        await self._stopping.wait()

    async def _probe_hardware(self) -> None:
        """Probe the hardware once the model is loaded and the worker is idle, since it costs seconds of CPU time."""
        loaded = await self._worker.wait_until_idle()
        await self._installed_models.look(loaded.weights_mb + loaded.kv_cache_mb)

    async def _list_served_models(self) -> None:
        """Offer the models of the engine's servers with /model, unless INHOUSE_MODELS chooses among them."""
        engine = self._engine
        while isinstance(engine, ModelServers):
            settings = self._current.settings
            if not settings.models and engine.offered:
                catalog = Catalog.of_servers(tuple(dict.fromkeys((settings.model, *engine.offered))))
                if catalog.names != self._current.catalog.names:
                    self._current.catalog = catalog
            await asyncio.sleep(LIST_EVERY_S)

    async def _keep_retention(self) -> None:
        """Delete expired data; of several hosts, one does."""
        await while_held(self._turns or Always(), "retention", self._retention.keep)

    async def _connect(self, adapter: Adapter) -> None:
        try:
            await adapter.run(self._core, self._turns if self._listens else Never(self._turns))
        except FatalAdapterError as error:
            self._refused[adapter.platform] = str(error)
            if adapter.platform not in self._core.connected or len(self._refused) == len(self._adapters):
                raise ConfigError(str(error)) from error
            log.error("%s is stopped: %s", adapter.platform, error)

    async def _drain(self) -> None:
        """Finish running answers and deliver final texts; a second `stop` cuts it short."""
        hurry = asyncio.create_task(self._hurrying.wait())
        drained = asyncio.create_task(self._worker.drain(self._current.settings.drain))
        await asyncio.wait([hurry, drained], return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            drained.cancel()
            await asyncio.gather(drained, return_exceptions=True)
            await self._worker.drain(0)
        hurry.cancel()
        await self._replies.wait_delivered(0 if self._hurrying.is_set() else LAST_WORDS_S)
        for adapter in self._adapters.values():
            await adapter.close()
        await self._backfill.save()


def _ended(task: asyncio.Task[None]) -> None:
    """Log a background task that failed by a bug; the service continues without it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("The background task '%s' failed, and Inhouse runs without it", task.get_name(), exc_info=error)


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)
