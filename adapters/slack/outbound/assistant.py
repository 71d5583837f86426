"""Suggests prompts and sets thread titles in Slack's assistant view; failures are only logged.

Apps with the older assistant view send an event for each thread that is opened. For the newer agent view the manifest
holds the prompts.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Any

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.error_mapping import mapped_errors
from adapters.slack.json_fields import Raw, object_of, text_of
from bot.types.errors import AdapterError
from bot.types.messages import ConversationKey

log = logging.getLogger(__name__)

PROMPTS = (
    {"title": "What can you do?", "message": "What can you help me with?"},
    {"title": "Draft a message", "message": "Help me draft a message. Ask me first what it is about."},
    {"title": "Shorten a text", "message": "Shorten a text to its main points. Ask me for the text."},
    {"title": "Find a mistake", "message": "My code does not work. Ask me for it and for the error."},
)
"""The suggested prompts; Slack shows at most four."""
MAX_TITLE = 60
MAX_REMEMBERED = 1000


class AssistantView:
    """Sets up the threads of the assistant view."""

    def __init__(self, web: AsyncWebClient) -> None:
        self._web = web
        self._named_threads: OrderedDict[ConversationKey, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def register(self, app: AsyncApp) -> None:
        """Register for opened threads; context changes are only acknowledged."""

        async def started(ack: AsyncAck, event: Raw) -> None:
            thread = object_of(event, "assistant_thread")
            task = asyncio.create_task(self._suggest(text_of(thread, "channel_id"), text_of(thread, "thread_ts")))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await ack()

        async def context_changed(ack: AsyncAck) -> None:
            await ack()

        app.event("assistant_thread_started")(started)
        app.event("assistant_thread_context_changed")(context_changed)

    async def set_title(self, key: ConversationKey, text: str) -> None:
        """Set a thread's title from its first message, once."""
        title = " ".join(text.split())
        if not key.thread or not title or key in self._named_threads:
            return
        self._named_threads[key] = None
        while len(self._named_threads) > MAX_REMEMBERED:
            self._named_threads.popitem(last=False)
        if len(title) > MAX_TITLE:
            title = f"{title[: MAX_TITLE - 1].rstrip()}…"
        await _try_call(self._web.assistant_threads_setTitle(channel_id=key.channel, thread_ts=key.thread, title=title))

    async def close(self) -> None:
        """Cancel running calls."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _suggest(self, channel: str, thread: str) -> None:
        prompts = [dict(each) for each in PROMPTS]
        await _try_call(
            self._web.assistant_threads_setSuggestedPrompts(channel_id=channel, thread_ts=thread, prompts=prompts)
        )


async def _try_call(call: Awaitable[Any]) -> None:  # Any: the answer is not used
    """Make a call; log a failure."""
    try:
        async with mapped_errors():
            await call
    except AdapterError as error:
        log.info("The assistant view could not be set up: %s", error)
