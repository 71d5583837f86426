"""Reads back the messages of a conversation that were missed while the bot was not connected.

A channel's history does not contain the messages of its threads, so threads with recent messages are read as well.
"""

import logging
from collections.abc import Awaitable, Callable

from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.error_mapping import mapped_errors
from adapters.slack.inbound.events import EventTranslator
from adapters.slack.inbound.message_context import ContextFetcher
from adapters.slack.json_fields import Raw, body_of, objects_of, text_of
from adapters.slack.payloads import is_private, message_of, seconds_of
from bot.types.messages import ConversationKey, IncomingMessage

log = logging.getLogger(__name__)

PAGE = 200
MAX_PAGES = 10
"""The most pages of one history. Channels begin with the newest page, threads with the oldest one."""
MAX_THREADS = 20
"""The most threads of one channel, the most recently active ones first."""
CONTEXT_TIMEOUT_S = 20.0
"""The deadline for a message's context, seconds; no acknowledgement waits for it."""


async def read_back(
    web: AsyncWebClient,
    translator: EventTranslator,
    context: ContextFetcher,
    key: ConversationKey,
    after: float,
    oldest: float,
    limit: int,
) -> list[IncomingMessage]:
    """At most `limit` messages after `after`, oldest first, without commands, which are out of date.

    `oldest`: threads that began before it are not read. Raises RetryLater, Rejected (no permission) or Gone.
    """
    raws = await _messages_since(web, key, after, oldest)
    found: list[IncomingMessage] = []
    for ts in sorted(raws, key=float):
        if len(found) == limit:
            break
        message = message_of({**raws[ts], "channel": key.channel})
        translated = translator.message(message) if message is not None else None
        if message is None or translated is None:
            continue
        event = await context.enrich(translated, message, CONTEXT_TIMEOUT_S)
        if isinstance(event, IncomingMessage):
            found.append(event)
    return found


async def _messages_since(web: AsyncWebClient, key: ConversationKey, after: float, oldest: float) -> dict[str, Raw]:
    """The message objects by their ts."""
    found: list[Raw] = []
    if key.thread:
        found += await _thread(web, key.channel, key.thread, after)
    if not key.thread or is_private(key.channel):  # in the assistant view all messages are in threads
        starts = await _channel(web, key.channel, after if key.thread else min(after, oldest))
        found += starts if not key.thread else []
        active = [each for each in starts if seconds_of(text_of(each, "latest_reply")) > after]
        active.sort(key=lambda each: seconds_of(text_of(each, "latest_reply")), reverse=True)
        for start in active[:MAX_THREADS]:
            found += await _thread(web, key.channel, text_of(start, "ts"), after)
    return {ts: raw for raw in found if seconds_of(ts := text_of(raw, "ts")) > after}


async def _channel(web: AsyncWebClient, channel: str, after: float) -> list[Raw]:
    async def page(cursor: str | None) -> AsyncSlackResponse:
        return await web.conversations_history(channel=channel, oldest=f"{after:.6f}", limit=PAGE, cursor=cursor)

    return await _pages(page, channel)


async def _thread(web: AsyncWebClient, channel: str, thread: str, after: float) -> list[Raw]:
    async def page(cursor: str | None) -> AsyncSlackResponse:
        return await web.conversations_replies(
            channel=channel, ts=thread, oldest=f"{after:.6f}", limit=PAGE, cursor=cursor
        )

    return await _pages(page, channel)


async def _pages(page: Callable[[str | None], Awaitable[AsyncSlackResponse]], channel: str) -> list[Raw]:
    found: list[Raw] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        async with mapped_errors():
            answer = await page(cursor)
        found += objects_of(body_of(answer), "messages")
        cursor = (answer.get("response_metadata") or {}).get("next_cursor")
        if not cursor:
            return found
    log.warning("Only a part of the missed messages in %s is read back, since there are too many.", channel)
    return found
