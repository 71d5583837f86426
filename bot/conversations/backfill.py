"""What was said while a platform could not tell us: how far each channel was heard, and reading back from there.

In: every message that is heard, and the beginning of every new session. Out: the messages in between, handled as if
they came live. It promises: a channel that was never heard before is not read back; of the others at most so many
messages, not older than so many seconds; a stored cursor has nothing behind it that is still to be handled; what was
answered already is not answered again (the inbox sees to that).
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from bot.models.runtime_config import Current
from bot.platforms.adapter import Adapter
from bot.storage import Cursor, Storage
from bot.types.errors import AdapterError, Rejected, RetryLater, StorageError
from bot.types.messages import ConversationKey, IncomingMessage, Outcome

log = logging.getLogger(__name__)

SAVE_S = 5.0
"""How often cursors are written; after a crash so much is read back twice, and dropped as known."""

TRIES = 3
AT_ONCE = 8
MOST_CHANNELS = 1000
"""How many channels are read back, those heard last before the others."""
MOST_KEPT = 3 * MOST_CHANNELS
"""Cursors in memory: every thread has one, and in months there are many threads."""


class CatchUp:
    """Keeps the cursors, and reads back from them."""

    def __init__(self, current: Current, storage: Storage) -> None:
        self._current, self._storage = current, storage
        self._heard: dict[ConversationKey, Cursor] = {}  # the newest message of each place
        self._stored: dict[ConversationKey, Cursor] = {}
        self._missed: dict[ConversationKey, set[str]] = {}  # messages that are not stored yet
        self._behind: set[str] = set()  # platforms that are to be read back first
        self._due = asyncio.Event()  # cursors should be written now
        self.sessions: dict[str, int] = {}
        """How many sessions each platform began; every one is read back for."""
        self.read: Counter[str] = Counter()
        """How many messages were read back, by platform."""

    async def load(self, platforms: Iterable[str]) -> None:
        """Begin from the stored cursors of these platforms."""
        for platform in platforms:
            self._behind.add(platform)
            for cursor in await self._storage.cursors.of_platform(platform):
                self._stored[cursor.key] = cursor

    def missed(self, event: IncomingMessage) -> None:
        """Note that a message could not be stored: until it is, the cursor of its place stays before it."""
        self._missed.setdefault(_place(event), set()).add(event.message_id)

    def heard(self, event: IncomingMessage) -> None:
        """Note that a message was handled."""
        place = _place(event)
        if missed := self._missed.get(place):
            missed.discard(event.message_id)
        known = self._heard.get(place) or self._stored.get(place)
        if known is None or known.sent_at <= event.sent_at:
            self._heard[place] = Cursor(place, event.message_id, event.sent_at)
            if place not in self._stored:
                self._due.set()

    async def keep_saving(self) -> None:
        """Write the cursors every few seconds, and soon where there is none: without one, nothing is read back."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_S):
                    await self._due.wait()
            self._due.clear()
            await self.save()

    async def save(self) -> None:
        """Write the cursors that moved, except where something is still to be read back."""
        moved = [
            cursor
            for place, cursor in self._heard.items()
            if cursor != self._stored.get(place) and not self._missed.get(place) and place.platform not in self._behind
        ]
        if not moved:
            return
        try:
            await self._storage.cursors.save(moved)
            self._stored |= {cursor.key: cursor for cursor in moved}
            self._forget()
        except StorageError as error:
            log.error("The cursors could not be stored yet: %s", error)

    def _forget(self) -> None:
        """Drop from memory what is stored and would not be read back anyway."""
        if len(self._stored) > MOST_KEPT:
            owed = {place: cursor for place, cursor in self._heard.items() if cursor != self._stored.get(place)}
            newest = sorted(self._stored.values(), key=lambda cursor: cursor.sent_at)[-2 * MOST_CHANNELS :]
            self._stored, self._heard = {cursor.key: cursor for cursor in newest}, owed

    async def read_back(self, adapter: Adapter, handle: Callable[[IncomingMessage], Awaitable[Outcome]]) -> int:
        """Handle what an adapter's platform has after the cursors; the number of messages that address the bot.

        Raises StorageError: what is left is read back the next time.
        """
        platform = adapter.platform
        self._behind.add(platform)
        session = self.sessions[platform] = self.sessions.get(platform, 0) + 1
        given_up = {place: set(missed) for place, missed in self._missed.items() if place.platform == platform}
        oldest = time.time() - self._current.settings.catchup_age
        events = [event for event in await self._fetch_all(adapter) if event.sent_at >= oldest]
        self.read[platform] += len(events)
        for event in sorted(events, key=lambda event: event.sent_at):
            await handle(event)
        for place, missed in given_up.items():
            self._missed[place] -= missed
        if self.sessions[platform] == session:
            self._behind.discard(platform)
            if self._heard.keys() - self._stored.keys():
                self._due.set()
        return sum(event.addressed for event in events)

    async def _fetch_all(self, adapter: Adapter) -> list[IncomingMessage]:
        if not self._current.settings.catchup_messages:
            return []
        known = {**self._heard, **self._stored}  # where one is stored: nothing behind it is still to be handled
        cursors = [cursor for cursor in known.values() if cursor.key.platform == adapter.platform]
        cursors.sort(key=lambda cursor: cursor.sent_at, reverse=True)
        free = asyncio.Semaphore(AT_ONCE)
        found = await asyncio.gather(*(self._fetch(adapter, cursor, free) for cursor in cursors[:MOST_CHANNELS]))
        return [event for events in found for event in events]

    async def _fetch(self, adapter: Adapter, cursor: Cursor, free: asyncio.Semaphore) -> list[IncomingMessage]:
        async with free:
            for attempt in range(TRIES):
                try:
                    most = self._current.settings.catchup_messages
                    return list(await adapter.fetch_since(cursor.key, cursor.message_id, most))
                except Rejected as error:
                    log.info("A channel cannot be read back any more: %s", error)
                    return []
                except RetryLater as error:
                    await asyncio.sleep(error.seconds)
                except AdapterError as error:
                    log.warning("A channel cannot be read back yet: %s", error)
                    await asyncio.sleep(2.0**attempt)
                except Exception:  # an adapter's bug must not cost the other channels
                    log.exception("An adapter failed to read a channel back")
                    return []
        log.error("A channel could not be read back; what was said there meanwhile is not answered")
        return []


def _place(event: IncomingMessage) -> ConversationKey:
    """Where a message stands. One that a thread starts from stands in the channel itself."""
    return replace(event.key, thread="") if event.key.thread == event.message_id else event.key
