"""The Core that adapters see: every event comes in here, and goes to the part that acts on it.

In: events. Out: what to tell whoever caused them. It promises: an event is on disk when `handle` returns; who is not to
be served is not; how far each channel was heard is kept.
"""

import logging
from collections.abc import Mapping, Sequence

from bot.conversations.backfill import CatchUp
from bot.conversations.conversations import Conversations
from bot.core.actions import Actions
from bot.core.presence import Presence
from bot.core.settings_commands import Tuning
from bot.generation.worker import Worker
from bot.models.runtime_config import Current
from bot.platforms.access import NOT_SERVED, is_served
from bot.platforms.adapter import Adapter
from bot.types.errors import StorageError
from bot.types.messages import (
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

log = logging.getLogger(__name__)


class ServiceCore:
    """What every adapter gets in `run`."""

    def __init__(
        self,
        current: Current,
        adapters: Mapping[str, Adapter],
        conversations: Conversations,
        worker: Worker,
        actions: Actions,
        tuning: Tuning,
        presence: Presence,
        catchup: CatchUp,
    ) -> None:
        self._current, self._adapters, self._conversations, self._worker = current, adapters, conversations, worker
        self._actions, self._tuning, self._presence, self._catchup = actions, tuning, presence, catchup
        self.connected: set[str] = set()
        """The platforms that had a session."""

    async def handle(self, event: Event) -> Outcome:
        """Take one event of an adapter. Raises StorageError, and then it was not stored."""
        if isinstance(event, IncomingMessage):
            return await self._message(event)
        if isinstance(event, IncomingCommand | IncomingAction):
            if not is_served(self._current.settings, event.key, event.actor):
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
        """Whether anything was said or asked in this conversation before. Raises StorageError."""
        return await self._conversations.following(key)

    async def catch_up(self, platform: str) -> None:
        """Handle what was said before this session began. Raises StorageError: call it again then."""
        self.connected.add(platform)
        missed = await self._catchup.read_back(self._adapters[platform], self._missed)
        if missed:
            log.info("%s: %d messages to the bot were read back", platform, missed)

    def presence(self) -> str:
        """'phi-4 · 38 tokens/s · 2 waiting'."""
        return self._presence.line()

    async def _missed(self, event: IncomingMessage) -> Outcome:
        """As live, but a full queue makes it wait: nobody would see a refusal."""
        return await self._message(event, patient=True)

    async def _message(self, event: IncomingMessage, *, patient: bool = False) -> Outcome:
        if not is_served(self._current.settings, event.key, event.author):
            return Accepted()
        try:
            outcome = await self._conversations.message(event, self._worker.submit, patient=patient)
        except StorageError:
            self._catchup.missed(event)
            raise
        self._catchup.heard(event)
        return outcome
