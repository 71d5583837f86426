"""Passes events to the core before they are acknowledged, and posts its direct responses.

A message that arrives twice (as `message` and as `app_mention`, or redelivered after a lost ack) is handled once and
gets one response. StorageError propagates, so that an event that was not stored is not acknowledged.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

from adapters.retries import sleep_unless
from adapters.slack.bot_identity import PLATFORM
from adapters.slack.inbound.events import EventTranslator
from adapters.slack.inbound.message_context import ContextFetcher
from adapters.slack.outbound.assistant import AssistantView
from adapters.slack.outbound.posting import Posting
from adapters.slack.payloads import Raw, SlackMessage, is_private, message_of, object_of, text_of
from bot.platforms.adapter import Core
from bot.types.errors import AdapterError, StorageError
from bot.types.messages import IncomingCommand, IncomingMessage, Notice, Refused

log = logging.getLogger(__name__)

LAST_S = 1.0
LONGEST_S = 30.0
TRIES = 5
MOST_DONE = 5000

Identity = tuple[str, str, bool]


class Intake:
    """Handles events until the adapter closes; `closing` ends all waits."""

    def __init__(
        self,
        core: Core,
        translator: EventTranslator,
        context: ContextFetcher,
        posting: Posting,
        assistant: AssistantView,
        closing: asyncio.Event,
    ) -> None:
        self._core, self._posting, self._assistant = core, posting, assistant
        self._translator, self._context = translator, context
        self._closing = closing
        self._errands: set[asyncio.Task[None]] = set()
        self._working: dict[Identity, asyncio.Task[None]] = {}
        self._done: OrderedDict[Identity, None] = OrderedDict()

    async def message(self, raw: Raw) -> None:
        """Handle a new message. Raises StorageError."""
        message = message_of(raw)
        if message is None:
            return
        # An edit may add the mention: the same message, but a new event.
        identity = (message.channel, message.ts, self._translator.addresses_bot(message))
        if identity in self._done:
            return
        task = self._working.get(identity)
        if task is None:
            task = self._working[identity] = asyncio.create_task(self._message(message))
            task.add_done_callback(lambda done: self._worked(identity, done))
        await asyncio.shield(task)

    async def change(self, raw: Raw) -> None:
        """Handle an edit by the author or by Slack, or a deletion that keeps the thread. Raises StorageError."""
        if text_of(object_of(raw, "message"), "subtype") == "tombstone":
            return await self.deletion(raw)
        message = self._translator.edited_message(raw)
        if message is not None:
            for event in await self._context.enrich_edits(self._translator.edits(message), message):
                await self._core.handle(event)
        return None

    async def deletion(self, raw: Raw) -> None:
        """Handle a deleted message. Raises StorageError."""
        for event in self._translator.deletions(raw):
            await self._core.handle(event)

    def catch_up(self) -> None:
        """Start the core's backfill; retries while storage or Slack fails."""
        self._run(self._catch_up())

    async def end(self) -> None:
        """Wait up to LAST_S for running handlers, then cancel them."""
        tasks = {*self._errands, *self._working.values()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=LAST_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _message(self, message: SlackMessage) -> None:
        translated = self._translator.message(message)
        if translated is None:
            return
        event = await self._context.enrich(translated, message)
        begins = await self._begins(event)
        outcome = await self._core.handle(event)
        if isinstance(outcome, Notice | Refused):
            self._run(self._tell(event, outcome))
        elif begins and isinstance(event, IncomingMessage):
            self._run(self._assistant.set_title(event.key, event.text))

    def _worked(self, identity: Identity, task: "asyncio.Task[None]") -> None:
        del self._working[identity]
        if not task.cancelled() and task.exception() is None:
            self._done[identity] = None
            if len(self._done) > MOST_DONE:
                self._done.popitem(last=False)

    async def _begins(self, event: IncomingMessage | IncomingCommand) -> bool:
        """Whether this is the first message of a thread in the assistant view."""
        if not isinstance(event, IncomingMessage) or not event.key.thread or not is_private(event.key.channel):
            return False
        try:
            return not await self._core.following(event.key)
        except StorageError:
            return False

    async def _tell(self, event: IncomingMessage | IncomingCommand, outcome: Notice | Refused) -> None:
        """Post a direct response to a message."""
        key, to, attachment = event.key, "", None
        if isinstance(event, IncomingCommand) and not is_private(key.channel):
            to = event.actor.id
        if isinstance(outcome, Notice):
            to, attachment = to if outcome.private else "", outcome.attachment
        try:
            await self._posting.send_notice(key, outcome.text, thread=key.thread, to=to, attachment=attachment)
        except AdapterError as error:
            log.warning("The answer to a message in %s cannot be shown: %s", key.channel, error)

    async def _catch_up(self) -> None:
        wait = 1.0
        while not self._closing.is_set():
            try:
                await self._core.catch_up(PLATFORM)
                return
            except (StorageError, AdapterError) as error:
                log.warning("What was said meanwhile cannot be read back yet: %s", error)
            await sleep_unless(self._closing, wait)
            wait = min(LONGEST_S, wait * 2)

    def _run(self, errand: Coroutine[Any, Any, None]) -> None:  # Any: asyncio's coroutine type parameters
        """Run a coroutine in the background."""
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._ran)

    def _ran(self, task: "asyncio.Task[None]") -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("Something for Slack failed (%s).", type(error).__name__, exc_info=error)
