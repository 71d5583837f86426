"""Passes events to the core and posts its direct responses.

Discord does not redeliver events, so while storage fails, up to MOST_WAITING events are retried here; the next backfill
reads the others.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator

import discord

from adapters.discord.channels import PLATFORM, resolve_channel
from adapters.discord.inbound.message_context import ContextFetcher
from adapters.discord.outbound.posting import Posting
from adapters.retries import retried_until_closed, sleep_unless
from bot.platforms.adapter import Core
from bot.platforms.splitter import split
from bot.types.errors import AdapterError, RetryLater, StorageError
from bot.types.messages import Attachment, Event, Notice, Outcome, Refused

log = logging.getLogger(__name__)

MOST_WAITING = 1000
LONGEST_S = 30.0
LAST_S = 2.0
TRIES = 5
MAX_CHARS = 2000


class Intake:
    """Handles events until the adapter closes; `closing` ends all waits."""

    def __init__(self, core: Core, posting: Posting, closing: asyncio.Event) -> None:
        self._core, self.posting, self._closing = core, posting, closing
        self._waiting = 0
        self._errands: set[asyncio.Task[None] | None] = set()

    @contextlib.contextmanager
    def errand(self) -> Iterator[None]:
        """Register the current task while it handles an event, so that `end` waits for it."""
        task = asyncio.current_task()
        self._errands.add(task)
        try:
            yield
        finally:
            self._errands.discard(task)

    async def end(self) -> None:
        """Wait up to LAST_S for running handlers, then cancel them."""
        errands = [task for task in self._errands if task]
        if errands:
            _, late = await asyncio.wait(errands, timeout=LAST_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def message(self, context: ContextFetcher, message: discord.Message) -> None:
        """Handle a new message."""
        event = context.translator.message(message)
        outcome = await self.until_stored(await context.enrich(event, message)) if event else None
        if not isinstance(outcome, Notice | Refused):
            return
        for number, part in enumerate(split(outcome.text, MAX_CHARS)):
            attachment = outcome.attachment if isinstance(outcome, Notice) and number == 0 else None
            await self._tell(message, number, part.text, attachment)

    async def edit(self, context: ContextFetcher, message: discord.Message) -> None:
        """Handle an edited message."""
        if event := context.translator.edit(message):
            await self.until_stored(await context.enrich_edit(event, message))

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
        wait = 0.5
        while True:
            try:
                return await self._core.handle(event)
            except StorageError as error:
                if self._waiting >= MOST_WAITING or self._closing.is_set():
                    return None
                if not self._waiting:
                    log.error("What is said on Discord waits to be stored: %s", error)
            self._waiting += 1
            try:
                await sleep_unless(self._closing, wait)
            finally:
                self._waiting -= 1
            wait = min(LONGEST_S, wait * 2)

    async def _tell(self, message: discord.Message, part: int, text: str, attachment: Attachment | None) -> None:
        """Post a direct response; retries post it once, because Discord deduplicates by nonce."""
        for attempt in range(TRIES):
            try:
                return await self.posting.send_notice(message, part, text, attachment)
            except RetryLater as error:
                log.info("The answer to message %s has to wait: %s", message.id, error)
                await sleep_unless(self._closing, error.seconds * (attempt + 1))
            except AdapterError as error:
                log.warning("The answer to message %s cannot be shown: %s", message.id, error)
                return None
        return log.warning("The answer to message %s could not be shown.", message.id)

    async def catch_up(self) -> None:
        """Run the core's backfill; retries while storage or Discord fails."""
        await retried_until_closed(lambda: self._core.catch_up(PLATFORM), self._closing)
