"""The composition root: it makes the parts, recovers what an earlier process owed, runs, and drains.

In: settings, adapters and an engine. Out: a running service, until its adapters end or `stop` is called.
"""

import asyncio
import logging
from collections.abc import Sequence

from bot.actions import Actions
from bot.adapter import Adapter
from bot.catchup import CatchUp
from bot.config import Settings
from bot.conversations import Conversations
from bot.core import ServiceCore
from bot.engine.base import Engine
from bot.errors import ConfigError, FatalAdapterError, ModelError
from bot.messages import FinishReason
from bot.models.catalog import Catalog
from bot.models.shelf import Shelf
from bot.presence import Presence
from bot.queue import RequestQueue
from bot.records import Records
from bot.replies import Replies
from bot.storage import Storage
from bot.tuning import Tuning
from bot.waiters import Waiters
from bot.worker import ATTEMPTS, Worker

log = logging.getLogger(__name__)

LAST_WORDS_S = 5.0
"""How long, at the end, final texts may still take to reach their platform."""


class Service:
    """One running Inhouse. `run` it once."""

    def __init__(self, settings: Settings, catalog: Catalog, adapters: Sequence[Adapter], engine: Engine) -> None:
        self._settings, self._engine = settings, engine
        self._adapters = {adapter.platform: adapter for adapter in adapters}
        self._catalog, self._shelf = catalog, Shelf(settings, catalog)
        self._stopping, self._hurrying = asyncio.Event(), asyncio.Event()
        self._refused: set[str] = set()  # platforms that want us no more

    async def run(self) -> None:
        """Serve until every adapter has ended or `stop` was called, then drain.

        Raises ConfigError (a model that cannot be loaded, a state directory in use, a token that is refused at the
        start or when no other platform is left), StorageError.
        """
        storage = await Storage.open(self._settings.state_dir)
        try:
            self._assemble(storage)
            await self._recover()
            await self._serve()
        finally:
            await self._engine.close()
            await storage.close()

    def stop(self) -> None:
        """Begin to drain; a second call ends at once."""
        (self._hurrying if self._stopping.is_set() else self._stopping).set()

    def _assemble(self, storage: Storage) -> None:
        settings, shelf = self._settings, self._shelf
        self._storage = storage
        queue = RequestQueue(settings.queue_size, settings.per_user)
        self._replies = Replies(storage, self._adapters)
        conversations = Conversations(settings, self._catalog, storage, queue)
        self._worker = Worker(
            self._engine,
            queue,
            storage,
            self._replies,
            conversations,
            shelf.locate,
            self._catalog.default,
        )
        self._waiters = Waiters(settings, queue, self._replies, self._worker)
        tuning = Tuning(settings, self._catalog, storage, conversations, shelf)
        records = Records(storage, conversations, queue, self._worker, self._engine, shelf)
        prefixes = {platform: adapter.limits.prefix for platform, adapter in self._adapters.items()}
        actions = Actions(
            settings, storage, queue, self._worker, self._replies, conversations, tuning, records, prefixes
        )
        self._catchup = CatchUp(settings, storage)
        self._presence = Presence(queue, self._worker, self._engine)
        self._core = ServiceCore(
            settings,
            self._adapters,
            conversations,
            self._worker,
            actions,
            tuning,
            self._presence,
            self._catchup,
        )

    async def _recover(self) -> None:
        """Take up what an earlier process owed; of a platform that is not served now, it stays stored."""
        owed = await self._storage.inbox.recover()
        await self._catchup.load(self._adapters)
        self._replies.resume(await self._storage.outbox.unsettled())  # before more of them are made here
        for request in owed:
            if request.key.platform not in self._adapters:
                continue
            if request.attempts >= ATTEMPTS:
                live = self._replies.open(request, recall=True)
                await live.finish(FinishReason.ERROR, error="I was stopped twice while writing this, so I gave it up.")
            else:
                self._worker.submit(request, recall=True)

    async def _serve(self) -> None:
        worker = asyncio.create_task(self._worker.run(), name="worker")
        waiters = asyncio.create_task(self._waiters.keep_told(), name="waiters")
        stopping = asyncio.create_task(self._until_stopped(), name="stop")
        background = [
            asyncio.create_task(self._look_at_hardware(), name="hardware"),
            asyncio.create_task(self._presence.watch(), name="speed"),
            asyncio.create_task(self._catchup.keep_saving(), name="cursors"),
        ]
        adapters = [asyncio.create_task(self._connect(adapter)) for adapter in self._adapters.values()]
        served = asyncio.create_task(_all(adapters), name="adapters")
        tasks = [worker, waiters, stopping, served, *background]
        try:
            done, _ = await asyncio.wait([worker, waiters, stopping, served], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except ModelError as error:
            raise ConfigError(str(error)) from error
        finally:
            worker.cancel()
            await self._drain()
            for task in (*tasks, *adapters):
                task.cancel()
            await asyncio.gather(*tasks, *adapters, return_exceptions=True)
            await self._replies.settled(0)  # what was asked while we drained waits for the next start

    async def _until_stopped(self) -> None:
        await self._stopping.wait()

    async def _look_at_hardware(self) -> None:
        """Once the model is loaded and nobody waits for an answer, since the look costs seconds of a core."""
        loaded = await self._worker.at_rest()
        await self._shelf.look(loaded.weights_mb + loaded.kv_cache_mb)

    async def _connect(self, adapter: Adapter) -> None:
        try:
            await adapter.run(self._core)
        except FatalAdapterError as error:
            self._refused.add(adapter.platform)
            if adapter.platform not in self._core.connected or len(self._refused) == len(self._adapters):
                raise ConfigError(str(error)) from error
            log.error("%s stops: %s", adapter.platform, error)

    async def _drain(self) -> None:
        """Let running answers end and final texts arrive; a second `stop` cuts it short."""
        hurry = asyncio.create_task(self._hurrying.wait())
        drained = asyncio.create_task(self._worker.drain(self._settings.drain))
        await asyncio.wait([hurry, drained], return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            drained.cancel()
            await asyncio.gather(drained, return_exceptions=True)
            await self._worker.drain(0)
        hurry.cancel()
        await self._replies.settled(0 if self._hurrying.is_set() else LAST_WORDS_S)
        for adapter in self._adapters.values():
            await adapter.close()
        await self._catchup.save()


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)
