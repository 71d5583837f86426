"""Passes events to the core before they are acknowledged, and posts its direct responses.

A message that arrives twice (as `message` and as `app_mention`, or redelivered after a lost ack) is handled once and
gets one response. StorageError propagates, so that an event that was not stored is not acknowledged.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

from adapters.retries import retried_until_closed
from adapters.slack.bot_identity import PLATFORM
from adapters.slack.inbound.events import EventTranslator
from adapters.slack.inbound.message_context import ContextFetcher
from adapters.slack.json_fields import Raw, object_of, text_of
from adapters.slack.outbound.assistant import AssistantView
from adapters.slack.outbound.posting import Posting
from adapters.slack.payloads import SlackMessage, is_private, message_of
from bot.platforms.adapter import Core
from bot.types.errors import AdapterError, StorageError
from bot.types.messages import IncomingCommand, IncomingMessage, Notice, Refused

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 1.0
MAX_HANDLED = 5000
"""The most events that are remembered, to handle none of them twice."""

EventId = tuple[str, str, bool]
"""Channel, ts, and whether the message addresses the bot."""


class Intake:
    """Handles events until the adapter closes; `closing` ends all waits. `help_text` answers `!help`."""

    def __init__(
        self,
        core: Core,
        translator: EventTranslator,
        context: ContextFetcher,
        posting: Posting,
        assistant: AssistantView,
        closing: asyncio.Event,
        help_text: str,
    ) -> None:
        self._core, self._posting, self._assistant = core, posting, assistant
        self._translator, self._context = translator, context
        self._closing, self._help_text = closing, help_text
        self._tasks: set[asyncio.Task[None]] = set()
        self._handling: dict[EventId, asyncio.Task[None]] = {}
        self._handled: OrderedDict[EventId, None] = OrderedDict()

    async def message(self, raw: Raw) -> None:
        """Handle a new message. Raises StorageError."""
        message = message_of(raw)
        if message is None:
            return
        # An edit may add the mention: the same message, but a new event.
        event_id = (message.channel, message.ts, self._translator.addresses_bot(message))
        if event_id in self._handled:
            return
        task = self._handling.get(event_id)
        if task is None:
            task = self._handling[event_id] = asyncio.create_task(self._message(message))
            task.add_done_callback(lambda done: self._on_handled(event_id, done))
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
        self._start(retried_until_closed(lambda: self._core.catch_up(PLATFORM), self._closing))

    async def close(self) -> None:
        """Wait up to CLOSE_TIMEOUT_S for running handlers, then cancel them."""
        tasks = {*self._tasks, *self._handling.values()}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _message(self, message: SlackMessage) -> None:
        translated = self._translator.message(message)
        if translated is None:
            return
        event = await self._context.enrich(translated, message)
        first = await self._is_first(event)
        outcome = await self._core.handle(event)
        if isinstance(outcome, Notice | Refused):
            self._start(self._post_response(event, outcome))
        elif first and isinstance(event, IncomingMessage):
            self._start(self._assistant.set_title(event.key, event.text))

    def _on_handled(self, event_id: EventId, task: "asyncio.Task[None]") -> None:
        del self._handling[event_id]
        if not task.cancelled() and task.exception() is None:
            self._handled[event_id] = None
            if len(self._handled) > MAX_HANDLED:
                self._handled.popitem(last=False)

    async def _is_first(self, event: IncomingMessage | IncomingCommand) -> bool:
        """Whether this is the first message of a thread in the assistant view."""
        if not isinstance(event, IncomingMessage) or not event.key.thread or not is_private(event.key.channel):
            return False
        try:
            return not await self._core.following(event.key)
        except StorageError:
            return False

    async def _post_response(self, event: IncomingMessage | IncomingCommand, outcome: Notice | Refused) -> None:
        """Post a direct response to a message."""
        key, to, attachment, text = event.key, "", None, outcome.text
        if isinstance(event, IncomingCommand) and not is_private(key.channel):
            to = event.actor.id
        if isinstance(outcome, Notice):
            text = self._help_text if isinstance(event, IncomingCommand) and event.name == "help" else text
            to, attachment = to if outcome.private else "", outcome.attachment
        try:
            await self._posting.send_notice(key, text, thread=key.thread, to=to, attachment=attachment)
        except AdapterError as error:
            log.warning("The answer to a message in %s cannot be shown: %s", key.channel, error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:  # Any: asyncio's coroutine type parameters
        """Run a coroutine in the background."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("A background task of the Slack adapter failed (%s).", type(error).__name__, exc_info=error)
