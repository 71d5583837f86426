"""Finding what an earlier call posted, when nobody knows whether it did.

In: a reply. Out: the ts of its message, from the thread's or channel's history. An answer's message tells which it is
by its metadata, or by its buttons while it is streamed; a stream without either is the only message of ours that says
nothing.
"""

from collections.abc import Mapping
from typing import Any

from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.blocks import reply_id_of
from adapters.slack.me import Me
from bot.messages import Reply

PAGE = 200
PAGES = 3
"""So far from the question on is looked."""

Raw = Mapping[str, Any]  # Any: a message of Slack's


async def recognised(web: AsyncWebClient, me: Me, reply: Reply) -> str | None:
    """The ts of a reply's message, or None if it is not there. Raises SlackApiError."""
    unnamed = ""
    cursor = ""
    for _ in range(PAGES):
        messages, cursor = await _page(web, reply, cursor)
        for message in messages:
            ts = str(message.get("ts") or "")
            if not _is_mine(message, me) or ts <= reply.question_id:
                continue
            if reply_id_of(message) == reply.reply_id:
                return ts
            if _is_unfinished(message):
                unnamed = ts
        if not cursor:
            break
    return unnamed or None


async def _page(web: AsyncWebClient, reply: Reply, cursor: str) -> tuple[list[Raw], str]:
    how: dict[str, Any] = {  # Any: arguments of the SDK's methods
        "channel": reply.key.channel,
        "oldest": reply.question_id,
        "limit": PAGE,
        "include_all_metadata": True,
        "cursor": cursor or None,
    }
    if reply.key.thread:
        answer = await web.conversations_replies(ts=reply.key.thread, **how)
    else:
        answer = await web.conversations_history(**how)
    data = answer.data if isinstance(answer.data, dict) else {}
    found = data.get("messages")
    more = data.get("response_metadata")
    return (
        [message for message in found if isinstance(message, Mapping)] if isinstance(found, list) else [],
        str(more.get("next_cursor") or "") if isinstance(more, Mapping) else "",
    )


def _is_mine(message: Raw, me: Me) -> bool:
    return message.get("user") == me.user_id or (bool(me.bot_id) and message.get("bot_id") == me.bot_id)


def _is_unfinished(message: Raw) -> bool:
    """Whether it is a stream that nobody ended: whatever else we post says what it is."""
    return not message.get("metadata") and not reply_id_of(message) and message.get("subtype") in (None, "bot_message")
