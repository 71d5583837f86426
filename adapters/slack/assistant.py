"""The agent view: what it offers for a beginning, and the titles of its threads.

In: a thread that somebody opens there, and its first message. Out: suggested prompts and a title. It promises that a
failure of either disturbs nobody. Apps made with the older assistant view tell of each thread that is opened; in the
newer agent view the manifest holds the prompts.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Any

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.failures import mapped
from adapters.slack.payloads import Raw, object_of, text_of
from bot.errors import AdapterError
from bot.messages import ConversationKey

log = logging.getLogger(__name__)

PROMPTS = (
    {"title": "What can you do?", "message": "What can you help me with?"},
    {"title": "Draft a message", "message": "Help me draft a message to my team. Ask me first what it is about."},
    {"title": "Shorten a text", "message": "I want a text shortened to its main points. Ask me for the text."},
    {
        "title": "Find a mistake",
        "message": "A piece of code of mine does not work. Ask me for it and for the error.",
    },
)
"""What is suggested for a beginning; Slack shows four at most. Each says all that the model needs to go on."""
LONGEST_TITLE = 60
MOST_TITLED = 1000


class AssistantView:
    """Furnishes the threads of the agent view."""

    def __init__(self, web: AsyncWebClient) -> None:
        self._web = web
        self._titled: OrderedDict[ConversationKey, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def furnish(self, app: AsyncApp) -> None:
        """Register for threads that are opened. Where somebody looks meanwhile is not kept."""

        async def started(ack: AsyncAck, event: Raw) -> None:
            thread = object_of(event, "assistant_thread")
            task = asyncio.create_task(self._suggest(text_of(thread, "channel_id"), text_of(thread, "thread_ts")))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await ack()

        async def looked_elsewhere(ack: AsyncAck) -> None:
            await ack()

        app.event("assistant_thread_started")(started)
        app.event("assistant_thread_context_changed")(looked_elsewhere)

    async def titled(self, key: ConversationKey, text: str) -> None:
        """Name a thread after its first message, once."""
        title = " ".join(text.split())
        if not key.thread or not title or key in self._titled:
            return
        self._titled[key] = None
        while len(self._titled) > MOST_TITLED:
            self._titled.popitem(last=False)
        if len(title) > LONGEST_TITLE:
            title = f"{title[: LONGEST_TITLE - 1].rstrip()}…"
        await _tried(self._web.assistant_threads_setTitle(channel_id=key.channel, thread_ts=key.thread, title=title))

    async def end(self) -> None:
        """Leave nothing behind."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _suggest(self, channel: str, thread: str) -> None:
        prompts = [dict(each) for each in PROMPTS]
        await _tried(
            self._web.assistant_threads_setSuggestedPrompts(channel_id=channel, thread_ts=thread, prompts=prompts)
        )


async def _tried(call: Awaitable[Any]) -> None:  # Any: an answer that nobody reads
    """Make a call that may fail."""
    try:
        async with mapped():
            await call
    except AdapterError as error:
        log.info("The agent view could not be furnished: %s", error)
