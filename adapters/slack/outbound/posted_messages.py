"""Finds the message of a reply in the history, for a post whose outcome is unknown.

A posted message has the reply's id in its metadata, a stream that has not ended in its buttons. Among unfinished
streams without buttons, the first one after the known parts is the part that is looked for.
"""

import re
from typing import Any

from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.bot_identity import BotIdentity
from adapters.slack.json_fields import Raw, body_of, object_of, objects_of, text_of
from adapters.slack.outbound.api_calls import WriteCalls
from adapters.slack.outbound.blocks import payload_of, reply_id_of
from bot.types.messages import Reply

PAGE = 200
MAX_PAGES = 3
"""The most pages that are read, from the question on."""

_TS = re.compile(r"\d+\.\d+")


async def find_message(web: AsyncWebClient, calls: WriteCalls, identity: BotIdentity, reply: Reply) -> str | None:
    """The ts of a reply's message, or None if there is none. Raises RetryLater, Rejected or Gone."""
    known: set[int] = set()  # parts of the answer that were found
    unidentified: list[str] = []
    cursor = ""
    for _ in range(MAX_PAGES):
        messages, cursor = await _page(web, calls, reply, cursor)
        for message in messages:
            ts = str(message.get("ts") or "")
            if not _is_own(message, identity) or ts == reply.key.thread or _is_before(ts, reply.question_id):
                continue
            payload = payload_of(message)
            if reply_id_of(message) == reply.reply_id:
                return ts
            if payload.get("request_id") == reply.request_id:
                known.add(int(payload.get("part") or 0))
            elif _is_unfinished(message):
                unidentified.append(ts)
        if not cursor:
            break
    at = reply.part - sum(part < reply.part for part in known)
    return sorted(unidentified)[at] if at < len(unidentified) else None


async def _page(web: AsyncWebClient, calls: WriteCalls, reply: Reply, cursor: str) -> tuple[list[Raw], str]:
    arguments: dict[str, Any] = {  # Any: arguments of the SDK's methods
        "channel": reply.key.channel,
        "oldest": reply.question_id if _TS.fullmatch(reply.question_id) else None,
        "limit": PAGE,
        "include_all_metadata": True,
        "cursor": cursor or None,
    }

    async def read() -> AsyncSlackResponse:
        if reply.key.thread:
            return await web.conversations_replies(ts=reply.key.thread, **arguments)
        return await web.conversations_history(**arguments)

    method = "conversations.replies" if reply.key.thread else "conversations.history"
    answer = await calls.make(method, reply.key.channel, read)
    body = body_of(answer)
    return objects_of(body, "messages"), text_of(object_of(body, "response_metadata"), "next_cursor")


def _is_before(ts: str, question: str) -> bool:
    """Whether a message precedes the question (a command has no ts)."""
    return bool(_TS.fullmatch(question)) and float(ts) <= float(question)


def _is_own(message: Raw, identity: BotIdentity) -> bool:
    return message.get("user") == identity.user_id or (
        bool(identity.bot_id) and message.get("bot_id") == identity.bot_id
    )


def _is_unfinished(message: Raw) -> bool:
    """Whether a message is a stream without an end: all other messages of ours have metadata, files or buttons."""
    identified = message.get("metadata") or message.get("files") or reply_id_of(message)
    return not identified and message.get("subtype") in (None, "bot_message")
