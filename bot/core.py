"""The Core that adapters see: every event comes in here, and goes to the part that acts on it.

In: events. Out: what to tell whoever caused them. It promises: an event is on disk when `handle` returns; who is not to
be served is not; how far each channel was heard is kept.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from bot.access import NOT_SERVED, is_served
from bot.actions import Actions
from bot.adapter import Adapter
from bot.catchup import CatchUp
from bot.config import Settings
from bot.conversations import Conversations
from bot.engine.base import Engine
from bot.errors import EngineError, StorageError
from bot.messages import (
    Accepted,
    Choice,
    ConversationKey,
    Event,
    IncomingAction,
    IncomingCommand,
    IncomingMessage,
    MessageEdited,
    Outcome,
    Refused,
)
from bot.queue import RequestQueue
from bot.storage import Storage
from bot.tuning import Tuning
from bot.worker import Worker

log = logging.getLogger(__name__)

WATCH_S = 10.0
"""How often the engine's speed is asked for."""


class ServiceCore:
    """What every adapter gets in `run`."""

    def __init__(
        self,
        settings: Settings,
        adapters: Mapping[str, Adapter],
        storage: Storage,
        queue: RequestQueue,
        engine: Engine,
        worker: Worker,
        conversations: Conversations,
        actions: Actions,
        tuning: Tuning,
        catchup: CatchUp,
    ) -> None:
        self._settings, self._adapters, self._storage, self._queue = settings, adapters, storage, queue
        self._engine, self._worker, self._conversations = engine, worker, conversations
        self._actions, self._tuning, self._catchup = actions, tuning, catchup
        self._speed = 0.0
        self.connected: set[str] = set()
        """The platforms that had a session."""

    async def handle(self, event: Event) -> Outcome:
        """Take one event of an adapter. Raises StorageError, and then it was not stored."""
        if isinstance(event, IncomingMessage):
            return await self._message(event)
        if isinstance(event, IncomingCommand | IncomingAction):
            if not is_served(self._settings, event.key, event.actor):
                return Refused(NOT_SERVED)
            return await (
                self._actions.command(event) if isinstance(event, IncomingCommand) else self._actions.action(event)
            )
        if isinstance(event, MessageEdited):
            return await self._actions.edited(event)
        return await self._actions.deleted(event)

    def choices(self, command: str, prefix: str) -> Sequence[Choice]:
        """Completions of a command's option, from memory."""
        return self._tuning.choices(command, prefix)

    async def following(self, key: ConversationKey) -> bool:
        """Whether anything was said or asked in this conversation before."""
        return await self._storage.history.following(key)

    async def catch_up(self, platform: str) -> None:
        """Handle what was said before this session began."""
        self.connected.add(platform)
        missed = await self._catchup.read_back(self._adapters[platform], self.handle)
        if missed:
            log.info("%s: %d messages to the bot were read back", platform, missed)

    def presence(self) -> str:
        """'phi-4 · 38 tokens/s · 2 waiting'."""
        loading, loaded = self._worker.loading, self._worker.loaded
        if loading is not None:
            return f"loading {loading.model}, {loading.progress.fraction:.0%}"
        if loaded is None:
            return "no model is loaded"
        parts = [loaded.name]
        if self._queue.running() and self._speed >= 1:
            parts.append(f"{self._speed:.0f} tokens/s")
        if waiting := len(self._queue.waiting()):
            parts.append(f"{waiting} waiting")
        return " · ".join(parts)

    async def watch(self) -> None:
        """Ask the engine for its speed now and then, for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            if self._worker.loaded is not None and self._worker.loading is None:
                try:
                    self._speed = (await self._engine.stats()).tokens_per_s
                except EngineError:
                    self._speed = 0.0

    async def _message(self, event: IncomingMessage) -> Outcome:
        if not is_served(self._settings, event.key, event.author):
            return Accepted()
        try:
            outcome = await self._conversations.message(event, self._worker.submit)
        except StorageError:
            self._catchup.missed(event)
            raise
        self._catchup.heard(event)
        return outcome
