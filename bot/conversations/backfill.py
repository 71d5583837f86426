"""Backfills messages that were sent while a platform was disconnected, from a stored cursor per channel.

Channels without a cursor are not read. In the others it reads at most `catchup_messages` messages, none older than
`catchup_age` seconds, and handles them like live ones. Every message up to a stored cursor was handled or given up. The
inbox drops messages that were answered before.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from bot.models.runtime_config import RuntimeConfig
from bot.platforms.adapter import Adapter
from bot.storage import Cursor, Storage
from bot.types.errors import AdapterError, QueueFull, Rejected, RetryLater, StorageError
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


Handle = Callable[[IncomingMessage], Awaitable[Outcome]]
Wait = Callable[[IncomingMessage], Awaitable[None]]


class Backfill:
    """Stores a cursor per channel and thread, and backfills from it."""

    def __init__(self, current: RuntimeConfig, storage: Storage) -> None:
        self._current, self._storage = current, storage
        self._newest: dict[ConversationKey, Cursor] = {}  # newest handled message by channel or thread
        self._stored: dict[ConversationKey, Cursor] = {}
        self._unstored: dict[ConversationKey, set[str]] = {}  # ids of messages that could not be stored yet
        self._behind: set[str] = set()  # platforms with a pending backfill; their cursors are not stored
        self._due = asyncio.Event()  # store cursors now, not at the next interval
        self.sessions: dict[str, int] = {}
        """Number of sessions by platform; each one starts a backfill."""
        self.read: Counter[str] = Counter()
        """Number of backfilled messages by platform."""

    async def load(self, platforms: Iterable[str], *, behind: bool = True) -> None:
        """Load the stored cursors of these platforms. behind: they wait for a backfill."""
        for platform in platforms:
            if behind:
                self._behind.add(platform)
            for cursor in await self._storage.cursors.of_platform(platform):
                self._stored[cursor.key] = cursor

    def not_stored(self, event: IncomingMessage) -> None:
        """Record a message that could not be stored; its cursor is not stored until it was handled or backfilled."""
        self._unstored.setdefault(place_of(event), set()).add(event.message_id)

    def handled(self, event: IncomingMessage) -> None:
        """Record that a message was handled."""
        place = place_of(event)
        self._not_missing(place, {event.message_id})
        known = self._newest.get(place) or self._stored.get(place)
        if known is None or known.sent_at <= event.sent_at:
            self._newest[place] = Cursor(place, event.message_id, event.sent_at)
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
            for place, cursor in self._newest.items()
            if cursor != self._stored.get(place)
            and not self._unstored.get(place)
            and place.platform not in self._behind
        ]
        if not moved:
            return
        try:
            await self._storage.cursors.save(moved)
            self._stored |= {cursor.key: cursor for cursor in moved}
            self._evict()
        except StorageError as error:
            log.error("The cursors could not be stored yet: %s", error)

    def _evict(self) -> None:
        """Evict stored cursors that are too old for a backfill."""
        if len(self._stored) > MOST_KEPT:
            unsaved = {place: cursor for place, cursor in self._newest.items() if cursor != self._stored.get(place)}
            newest = sorted(self._stored.values(), key=lambda cursor: cursor.sent_at)[-2 * MOST_CHANNELS :]
            self._stored, self._newest = {cursor.key: cursor for cursor in newest}, unsaved

    def _not_missing(self, place: ConversationKey, message_ids: set[str]) -> None:
        missing = self._unstored.get(place, set())
        missing -= message_ids
        if not missing:
            self._unstored.pop(place, None)

    async def read_back(self, adapter: Adapter, handle: Handle, wait_for_place: Wait) -> int:
        """Fetch and handle the messages after the cursors; returns how many of them address the bot.

        A user for whom `handle` raises QueueFull waits with `wait_for_place`; the messages of others do not. Raises
        StorageError; the next backfill handles the remaining messages.
        """
        platform = adapter.platform
        self._behind.add(platform)
        session = self.sessions[platform] = self.sessions.get(platform, 0) + 1
        unstored = {place: set(missing) for place, missing in self._unstored.items() if place.platform == platform}
        await self.load([platform])  # another host may have served the platform meanwhile
        oldest = time.time() - self._current.settings.catchup_age
        events = [event for event in await self._fetch_all(adapter) if event.sent_at >= oldest]
        self.read[platform] += len(events)
        await self._handle_all(sorted(events, key=lambda event: event.sent_at), handle, wait_for_place)
        for place, message_ids in unstored.items():
            self._not_missing(place, message_ids)
        if self.sessions[platform] == session:
            self._behind.discard(platform)
            if self._newest.keys() - self._stored.keys():
                self._due.set()
        return sum(event.addressed for event in events)

    async def read_again(self, adapter: Adapter, since: float, handle: Handle, wait_for_place: Wait) -> int:
        """Fetch and handle all messages since a Unix time, for a host that may have received some and stored none.

        Cursors moved by other hosts do not count. Returns how many messages address the bot. Raises StorageError.
        """
        await self.load([adapter.platform], behind=False)
        events = [event for event in await self._fetch_all(adapter, since) if event.sent_at >= since]
        self.read[adapter.platform] += len(events)
        await self._handle_all(sorted(events, key=lambda event: event.sent_at), handle, wait_for_place)
        return sum(event.addressed for event in events)

    async def _handle_all(self, events: Sequence[IncomingMessage], handle: Handle, wait_for_place: Wait) -> None:
        """Handle messages in order. The rest of a user's messages waits in a task of its own once the queue is full."""
        delayed: dict[str, list[IncomingMessage]] = {}  # by user id
        for event in events:
            if event.author.id in delayed:
                delayed[event.author.id].append(event)
                continue
            try:
                await handle(event)
            except QueueFull:
                delayed[event.author.id] = [event]

        async def handle_when_free(events: Sequence[IncomingMessage]) -> None:
            for event in events:
                while True:
                    await wait_for_place(event)
                    with contextlib.suppress(QueueFull):  # another message took the place
                        await handle(event)
                        break

        tasks = [asyncio.create_task(handle_when_free(events)) for events in delayed.values()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _fetch_all(self, adapter: Adapter, since: float = math.inf) -> list[IncomingMessage]:
        if not self._current.settings.catchup_messages:
            return []
        known = {**self._newest, **self._stored}  # the stored cursor wins: all messages up to it were handled
        cursors = [cursor for cursor in known.values() if cursor.key.platform == adapter.platform]
        cursors.sort(key=lambda cursor: cursor.sent_at, reverse=True)
        cursors = [
            replace(cursor, message_id=adapter.id_at(since), sent_at=since) if cursor.sent_at > since else cursor
            for cursor in cursors
        ]
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
