"""Backfills messages that were sent while a platform was disconnected, from a stored cursor per channel.

Channels without a cursor are not read. In the others it reads at most `catchup_messages` messages, none older than
`catchup_age` seconds, and handles them like live ones. Every message up to a stored cursor was handled or given up. The
inbox drops messages that were answered before.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from bot.models.runtime_config import RuntimeConfig
from bot.platforms.adapter import Adapter
from bot.storage import Cursor, Storage
from bot.types.errors import AdapterError, Rejected, RetryLater, StorageError
from bot.types.messages import ConversationKey, IncomingMessage, Outcome

log = logging.getLogger(__name__)

SAVE_S = 5.0
"""Interval for storing cursors; after a crash, messages of this period are read again and dropped as duplicates."""

TRIES = 3
AT_ONCE = 8
MOST_CHANNELS = 1000
"""Maximum number of channels to backfill, most recently active first."""
MOST_KEPT = 3 * MOST_CHANNELS
"""Maximum number of cursors in memory; each thread has one."""


class Backfill:
    """Stores a cursor per channel and thread, and backfills from it."""

    def __init__(self, current: RuntimeConfig, storage: Storage) -> None:
        self._current, self._storage = current, storage
        self._heard: dict[ConversationKey, Cursor] = {}  # newest handled message by channel or thread
        self._stored: dict[ConversationKey, Cursor] = {}
        self._missed: dict[ConversationKey, set[str]] = {}  # ids of messages that could not be stored yet
        self._behind: set[str] = set()  # platforms with a pending backfill; their cursors are not stored
        self._due = asyncio.Event()  # store cursors now, not at the next interval
        self.sessions: dict[str, int] = {}
        """Number of sessions by platform; each one starts a backfill."""
        self.read: Counter[str] = Counter()
        """Number of backfilled messages by platform."""

    async def load(self, platforms: Iterable[str]) -> None:
        """Load the stored cursors of these platforms."""
        for platform in platforms:
            self._behind.add(platform)
            for cursor in await self._storage.cursors.of_platform(platform):
                self._stored[cursor.key] = cursor

    def missed(self, event: IncomingMessage) -> None:
        """Record a message that could not be stored; its cursor is not stored until it was handled or backfilled."""
        self._missed.setdefault(place_of(event), set()).add(event.message_id)

    def heard(self, event: IncomingMessage) -> None:
        """Record that a message was handled."""
        place = place_of(event)
        if missed := self._missed.get(place):
            missed.discard(event.message_id)
        known = self._heard.get(place) or self._stored.get(place)
        if known is None or known.sent_at <= event.sent_at:
            self._heard[place] = Cursor(place, event.message_id, event.sent_at)
            if place not in self._stored:
                self._due.set()

    async def keep_saving(self) -> None:
        """Store cursors every SAVE_S, and at once for a new channel: without a cursor there is no backfill."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_S):
                    await self._due.wait()
            self._due.clear()
            await self.save()

    async def save(self) -> None:
        """Store the changed cursors, except where a message is still unhandled."""
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
        """Evict stored cursors that are too old for a backfill."""
        if len(self._stored) > MOST_KEPT:
            owed = {place: cursor for place, cursor in self._heard.items() if cursor != self._stored.get(place)}
            newest = sorted(self._stored.values(), key=lambda cursor: cursor.sent_at)[-2 * MOST_CHANNELS :]
            self._stored, self._heard = {cursor.key: cursor for cursor in newest}, owed

    async def read_back(self, adapter: Adapter, handle: Callable[[IncomingMessage], Awaitable[Outcome]]) -> int:
        """Fetch and handle the messages after the cursors; returns how many of them address the bot.

        Raises StorageError; the next backfill handles the remaining messages.
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
        known = {**self._heard, **self._stored}  # the stored cursor wins: all messages up to it were handled
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
                except Exception:  # a bug in an adapter must not stop the other channels
                    log.exception("An adapter failed to read a channel back")
                    return []
        log.error("A channel could not be read back; what was said there meanwhile is not answered")
        return []


def place_of(event: IncomingMessage) -> ConversationKey:
    """The cursor key of a message: its thread, or the channel for the message that starts the thread."""
    return replace(event.key, thread="") if event.key.thread == event.message_id else event.key
