"""Implements the Core protocol for adapters: dispatches every event to its handler.

An event is stored when `handle` returns. Drops events of denied users; keeps a backfill cursor per channel. Of several
hosts that get a copy of a message each, one responds.
"""

import logging
from collections.abc import Awaitable, Mapping, Sequence

from bot.conversations.backfill import Backfill
from bot.conversations.conversations import Conversations
from bot.core.actions import Actions
from bot.core.early_edits import EarlyEdits
from bot.core.presence import Presence
from bot.core.settings_commands import SettingsCommands
from bot.models.runtime_config import RuntimeConfig
from bot.platforms.adapter import Adapter
from bot.storage import Storage
from bot.types.errors import QueueFull, StorageError
from bot.types.messages import (
    Accepted,
    Choice,
    ConversationKey,
    Event,
    IncomingAction,
    IncomingCommand,
    IncomingForget,
    IncomingMessage,
    MessageEdited,
    Notice,
    Outcome,
    Person,
    Refused,
)
from bot.types.rights import NOT_SERVED, is_served

log = logging.getLogger(__name__)

RESPONSE, COPIES_S = "response to ", 2.5
"""Kind of the leases of hosts that respond, and how long one lasts, seconds: Slack delivers again after three."""


class ServiceCore:
    """The Core that each adapter gets in `run`."""

    def __init__(
        self,
        config: RuntimeConfig,
        storage: Storage,
        adapters: Mapping[str, Adapter],
        conversations: Conversations,
        actions: Actions,
        settings_commands: SettingsCommands,
        presence: Presence,
        backfill: Backfill,
    ) -> None:
        self._config, self._storage = config, storage
        self._adapters, self._conversations = adapters, conversations
        self._actions, self._settings_commands = actions, settings_commands
        self._presence, self._backfill = presence, backfill
        self._early_edits = EarlyEdits()
        self.connected: set[str] = set()
        """Platforms that have had a session."""

    async def handle(self, event: Event) -> Outcome:
        """Handle one event. Raises StorageError if it could not be stored."""
        outcome = await self._handle(event)
        if not isinstance(outcome, Notice | Refused):
            return outcome
        match event:
            case IncomingMessage(asker=None, message_id=event_id) | IncomingCommand(event_id=event_id):
                return outcome if await self._responds(event.key, event_id) else Accepted()
            case _:
                return outcome

    async def _handle(self, event: Event) -> Outcome:
        if isinstance(event, IncomingMessage):
            try:
                return await self._message(event)
            except QueueFull as error:
                return await self._stored(event, self._conversations.refuse(event, str(error)))
        if isinstance(event, IncomingCommand | IncomingAction):
            if not self._is_served(event.key, event.actor):
                return Refused(NOT_SERVED)
            return await (
                self._actions.command(event) if isinstance(event, IncomingCommand) else self._actions.action(event)
            )
        if isinstance(event, IncomingForget):  # also for people who are not served: it is about their own words
            return await self._actions.forget(event)
        if isinstance(event, MessageEdited):
            return await self._edited(event)
        self._early_edits.drop(event.key, event.message_id)
        return await self._actions.deleted(event)

    def choices(self, command: str, prefix: str) -> Sequence[Choice]:
        """Completions of a command's option, from memory."""
        return self._settings_commands.choices(command, prefix)

    async def following(self, key: ConversationKey) -> bool:
        """Whether this conversation has stored turns or requests. Raises StorageError."""
        return await self._conversations.following(key)

    async def catch_up(self, platform: str) -> None:
        """Backfill messages from before this session. Raises StorageError; call it again then."""
        self.connected.add(platform)
        wait = self._conversations.wait_for_place  # a late refusal would not be seen
        missed = await self._backfill.read_back(self._adapters[platform], self._message, wait)
        if missed:
            log.info("%s: %d messages to the bot were read back", platform, missed)

    async def read_again(self, platform: str, since: float) -> None:
        """Handle the messages since a Unix time that a host received and did not store. Raises StorageError."""
        wait = self._conversations.wait_for_place
        await self._backfill.read_again(self._adapters[platform], since, self._message, wait)

    def presence(self) -> str:
        """Status line for the platform's presence: 'phi-4 · 38 tokens/s · 2 waiting'."""
        return self._presence.line()

    async def _message(self, event: IncomingMessage) -> Outcome:
        """Raises QueueFull and StorageError."""
        if not self._is_served(event.key, event.asker or event.author):
            return Accepted()
        outcome = await self._stored(event, self._conversations.message(self._early_edits.applied(event)))
        if (edit := self._early_edits.newer(event)) is not None:  # it may have come while the message was stored
            await self._actions.edited(edit)
        self._early_edits.drop(event.key, event.message_id)
        return outcome

    async def _edited(self, event: MessageEdited) -> Outcome:
        self._early_edits.keep(event)
        await self._actions.edited(event)
        if await self._storage.history.authors(event.key, event.message_id):  # the message is stored
            self._early_edits.drop(event.key, event.message_id)
        return Accepted()

    async def _stored(self, event: IncomingMessage, storing: Awaitable[Outcome]) -> Outcome:
        """Move the backfill's cursor past a message once it is stored."""
        try:
            outcome = await storing
        except StorageError:
            self._backfill.not_stored(event)
            raise
        self._backfill.handled(event)
        return outcome

    async def _responds(self, key: ConversationKey, event_id: str) -> bool:
        """False if another host responds to another copy: Slack sends a mention as two events, to any socket each."""
        host = self._storage.hosts.this
        if not host:
            return True
        try:
            name = " ".join((key.platform, key.workspace, key.channel, event_id))
            return await self._storage.leases.claim_once(host, RESPONSE, name, COPIES_S)
        except StorageError:  # two responses are better than none
            return True

    def _is_served(self, key: ConversationKey, person: Person) -> bool:
        settings = self._config.settings
        return is_served(settings.allow, settings.deny, key, person)
