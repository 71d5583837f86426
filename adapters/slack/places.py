"""What the bot can see of a channel: whether it is in it, and single messages.

In: ids. Out: an answer within a second, since somebody waits for an acknowledgement; what Slack does not tell in time
is not known.
"""

import asyncio
import logging

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.payloads import Raw, objects_of, text_of

log = logging.getLogger(__name__)

PATIENCE_S = 1.0
OUTSIDE = ("not_in_channel", "channel_not_found")
AWAY = "I am not in this conversation, so nobody would see my answer: add me first (in a channel with `/invite`)."

_FAILURES = (SlackClientError, aiohttp.ClientError, OSError, TimeoutError, ValueError)


class Places:
    """Looks into channels."""

    def __init__(self, web: AsyncWebClient) -> None:
        self._web = web

    async def reachable(self, channel: str) -> bool:
        """Whether the bot can write there; yes where it cannot be told."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._web.conversations_history(channel=channel, limit=1)
        except SlackApiError as error:
            return error.response.get("error") not in OUTSIDE
        except _FAILURES:
            pass
        return True

    async def message(self, channel: str, ts: str, thread: str) -> Raw | None:
        """A message with its metadata, None if there is none or it cannot be told. `thread` is '' in none."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._web.conversations_replies(
                    channel=channel,
                    ts=thread or ts,
                    oldest=ts,
                    latest=ts,
                    inclusive=True,
                    include_all_metadata=True,
                    limit=2,  # the first message of a thread comes with every other one
                )
        except _FAILURES as error:
            log.info("A message in %s cannot be read (%s).", channel, type(error).__name__)
            return None
        found = objects_of(answer.data, "messages") if isinstance(answer.data, dict) else []
        return next((each for each in found if text_of(each, "ts") == ts), None)
