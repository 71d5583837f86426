"""Passes events to the core and posts its direct responses.

Discord does not redeliver events, so while storage fails, up to MAX_WAITING events are retried here; the next backfill
reads the others.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import partial

import discord

from adapters.discord.channels import PLATFORM, resolve_channel
from adapters.discord.inbound.events import sent_at
from adapters.discord.inbound.message_context import ContextFetcher
from adapters.discord.outbound.posting import MAX_CHARS, Posting
from adapters.retries import retried, retried_until_closed, sleep_unless
from bot.platforms.adapter import Core
from bot.platforms.splitter import split
from bot.types.errors import AdapterError, StorageError
from bot.types.messages import Attachment, Event, IncomingMessage, Notice, Outcome, Refused

log = logging.getLogger(__name__)

MAX_WAITING = 1000
MAX_DELAY_S = 30.0
SHUTDOWN_S = 2.0
MAX_TRIES = 5
MAX_EDIT_AGE_S = 300.0
"""An edit that adds a mention is answered if the message is younger; in an older one it is a correction."""
MAX_REMEMBERED = 2000


class Intake:
    """Handles events until the adapter closes; `closing` ends all waits."""

    def __init__(self, core: Core, posting: Posting, closing: asyncio.Event) -> None:
        self._core, self.posting, self._closing = core, posting, closing
        self._waiting = 0
        self._addressed: OrderedDict[int, None] = OrderedDict()  # ids of messages to the bot that were handled
        self._tasks: set[asyncio.Task[None] | None] = set()

    @contextlib.contextmanager
    def tracked(self) -> Iterator[None]:
        """Register the current task while it handles an event, so that `end` waits for it."""
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def end(self) -> None:
        """Wait up to SHUTDOWN_S for running handlers, then cancel them."""
        tasks = [task for task in self._tasks if task]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def message(self, context: ContextFetcher, message: discord.Message) -> None:
        """Handle a new message."""
        translated = context.translator.message(message)
        if translated is None:
            return
        event = await context.enrich(translated, message)
        if isinstance(event, IncomingMessage) and event.addressed:
            self._remember(message.id)
        outcome = await self.until_stored(event)
        if not isinstance(outcome, Notice | Refused):
            return
        self._addressed.pop(message.id, None)  # an edit may ask it better
        for number, part in enumerate(split(outcome.text, MAX_CHARS)):
            attachment = outcome.attachment if isinstance(outcome, Notice) and number == 0 else None
            await self._respond(message, number, part.text, attachment)

    async def edit(self, context: ContextFetcher, message: discord.Message) -> None:
        """Handle an edited message; one that addresses the bot only since the edit is a new message."""
        event = context.translator.edit(message)
        if event is None:
            return
        await self.until_stored(await context.enrich_edit(event, message))
        is_recent = time.time() - sent_at(message.id) < MAX_EDIT_AGE_S
        if is_recent and message.id not in self._addressed and not event.author.is_bot:
            asked = context.translator.message(message)
            if asked is not None and asked.addressed:
                await self.message(context, message)

    def _remember(self, message_id: int) -> None:
        self._addressed[message_id] = None
        if len(self._addressed) > MAX_REMEMBERED:
            self._addressed.popitem(last=False)

    async def deletion(
        self,
        client: discord.Client,
        context: ContextFetcher,
        channel_id: int,
        guild_id: int | None,
        message_ids: Iterable[int],
    ) -> None:
        """Handle deleted messages."""
        where = client.get_channel(channel_id) or client.get_partial_messageable(channel_id, guild_id=guild_id)
        try:
            where = await resolve_channel(client, where)  # type: ignore[arg-type]  # it contained messages
        except AdapterError:
            return  # the thread was deleted, too
        for message_id in message_ids:
            for event in context.translator.deletions(where, message_id):
                await self.until_stored(event)

    async def until_stored(self, event: Event) -> Outcome | None:
        """Retry until the event is stored; None if too many events wait or the adapter closes."""
        wait = 0.5  # not stamina: closing ends the wait, and the number of waiting events is bounded
        while True:
            try:
                return await self._core.handle(event)
            except StorageError as error:
                if self._waiting >= MAX_WAITING or self._closing.is_set():
                    return None
                if not self._waiting:
                    log.error("What is said on Discord waits to be stored: %s", error)
            self._waiting += 1
            try:
                await sleep_unless(self._closing, wait)
            finally:
                self._waiting -= 1
            wait = min(MAX_DELAY_S, wait * 2)

    async def _respond(self, message: discord.Message, part: int, text: str, attachment: Attachment | None) -> None:
        """Post a direct response; retries post it once, because Discord deduplicates by nonce."""
        try:
            await retried(partial(self.posting.send_notice, message, part, text, attachment), MAX_TRIES)
        except AdapterError as error:
            log.warning("The answer to message %s cannot be shown: %s", message.id, error)

    async def catch_up(self) -> None:
        """Run the core's backfill; retries while storage or Discord fails."""
        await retried_until_closed(lambda: self._core.catch_up(PLATFORM), self._closing)
