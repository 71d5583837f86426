"""What was said while a platform could not tell us: how far each channel was heard, and reading back from there.

In: every message that is heard, and the beginning of every new session. Out: the messages in between, handled as if
they came live. It promises: a channel that was never heard before is not read back; of the others at most so many
messages, not older than so many seconds; what was answered already is not answered again (the inbox sees to that).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from bot.adapter import Adapter
from bot.config import Settings
from bot.errors import AdapterError, Rejected, RetryLater, StorageError
from bot.messages import ConversationKey, Event, IncomingMessage, Outcome
from bot.storage import Cursor, Storage

log = logging.getLogger(__name__)

SAVE_S = 5.0
"""How often cursors are written; after a crash so much is read back twice, and dropped as known."""

TRIES = 3


class CatchUp:
    """Keeps the cursors, and reads back from them."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self._settings, self._storage = settings, storage
        self._heard: dict[ConversationKey, Cursor] = {}
        self._unsaved: set[ConversationKey] = set()
        self._stuck: set[ConversationKey] = set()  # where something was missed

    async def load(self, platform: str) -> None:
        """Begin from the stored cursors of a platform."""
        for cursor in await self._storage.cursors.of_platform(platform):
            self._heard[cursor.key] = cursor

    def missed(self, event: IncomingMessage) -> None:
        """Note that a message could not be stored: its channel is read back from before it, at the next session."""
        self._stuck.add(event.key)

    def heard(self, event: IncomingMessage) -> None:
        """Note that a message was handled."""
        known = self._heard.get(event.key)
        if event.key in self._stuck:
            return
        if known is None or known.sent_at < event.sent_at:
            self._heard[event.key] = Cursor(event.key, event.message_id, event.sent_at)
            self._unsaved.add(event.key)

    async def keep_saving(self) -> None:
        """Write the cursors every few seconds, for ever."""
        while True:
            await asyncio.sleep(SAVE_S)
            await self.save()

    async def save(self) -> None:
        """Write the cursors that moved."""
        moved, self._unsaved = self._unsaved, set()
        try:
            if moved:
                await self._storage.cursors.save([self._heard[key] for key in moved])
        except StorageError as error:
            self._unsaved |= moved
            log.error("The cursors could not be stored yet: %s", error)

    async def read_back(self, adapter: Adapter, handle: Callable[[Event], Awaitable[Outcome]]) -> int:
        """Handle what an adapter's platform has after the cursors; the number of messages that address the bot."""
        oldest = time.time() - self._settings.catchup_age
        # Taken before the first await: what comes live from now on moves the cursors.
        cursors = [cursor for cursor in self._heard.values() if cursor.key.platform == adapter.platform]
        self._stuck -= {cursor.key for cursor in cursors}
        found = [await self._fetch(adapter, cursor) for cursor in cursors if self._settings.catchup_messages]
        missed = sorted((event for events in found for event in events), key=lambda event: event.sent_at)
        recent = [event for event in missed if event.sent_at >= oldest]
        for event in recent:
            await handle(event)
        return sum(event.addressed for event in recent)

    async def _fetch(self, adapter: Adapter, cursor: Cursor) -> list[IncomingMessage]:
        for attempt in range(TRIES):
            try:
                return list(await adapter.fetch_since(cursor.key, cursor.message_id, self._settings.catchup_messages))
            except Rejected as error:
                log.info("A channel cannot be read back any more: %s", error)
                return []
            except RetryLater as error:
                await asyncio.sleep(error.seconds)
            except AdapterError as error:
                log.warning("A channel cannot be read back yet: %s", error)
                await asyncio.sleep(2.0**attempt)
        log.error("A channel could not be read back; what was said there meanwhile is not answered")
        return []
