"""Reading back what was said while nobody listened.

In: a conversation and the last message of it that was heard. Out: what people said since, translated as live messages
are. A channel's history tells nothing of what was said in its threads, so those in which something was said since are
read as well, also where the thread itself is older.
"""

import logging
from collections.abc import Awaitable, Callable

from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.context import ContextFetcher
from adapters.slack.events import EventTranslator
from adapters.slack.failures import mapped_errors
from adapters.slack.payloads import Raw, body_of, is_private, message_of, objects_of, text_of
from bot.messages import ConversationKey, IncomingMessage

log = logging.getLogger(__name__)

PAGE = 200
MAX_PAGES = 10
"""Pages of one history that are read; Slack gives a channel's newest one first, and a thread's oldest one."""
MAX_THREADS = 20
"""Threads of one channel that are read, those first in which something was said last."""
CONTEXT_TIMEOUT_S = 20.0
"""Nobody waits for an acknowledgement of these."""


async def read_back(
    web: AsyncWebClient,
    translator: EventTranslator,
    context: ContextFetcher,
    key: ConversationKey,
    after: float,
    oldest: float,
    limit: int,
) -> list[IncomingMessage]:
    """At most `limit` messages after `after`, oldest first, without commands, which were about another moment.

    `oldest`: how far back a thread may begin that is looked into. Raises RetryLater, Rejected (may not read there) or
    Gone.
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
    """Slack's messages by their ts."""
    found: list[Raw] = []
    if key.thread:
        found += await _thread(web, key.channel, key.thread, after)
    if not key.thread or is_private(key.channel):  # in the assistant view everything is a thread, and each may be new
        starts = await _channel(web, key.channel, after if key.thread else min(after, oldest))
        found += starts if not key.thread else []
        active = [each for each in starts if _seconds(text_of(each, "latest_reply")) > after]
        active.sort(key=lambda each: _seconds(text_of(each, "latest_reply")), reverse=True)
        for start in active[:MAX_THREADS]:
            found += await _thread(web, key.channel, text_of(start, "ts"), after)
    return {ts: raw for raw in found if _seconds(ts := text_of(raw, "ts")) > after}


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
    log.warning("So much was said in %s meanwhile that only a part of it is read back.", channel)
    return found


def _seconds(ts: str) -> float:
    try:
        return float(ts)
    except ValueError:
        return 0.0
