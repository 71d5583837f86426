"""Reads channels for interactions: whether the bot is a member, and single messages.

Each call takes a second at most, since an acknowledgement waits for it.
"""

import asyncio
import logging

from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.error_mapping import code_of, mapped_errors
from adapters.slack.json_fields import Raw, body_of, objects_of, text_of
from bot.types.errors import AdapterError

log = logging.getLogger(__name__)

LOOKUP_TIMEOUT_S = 1.0
NOT_A_MEMBER_CODES = ("not_in_channel", "channel_not_found")
NOT_A_MEMBER = (
    "I am not a member of this conversation and cannot answer here. Add me first, in a channel with `/invite`."
)


class ChannelReader:
    """Reads channels."""

    def __init__(self, web: AsyncWebClient) -> None:
        self._web = web

    async def can_post(self, channel: str) -> bool:
        """Whether the bot is a member of a channel; True if that cannot be found out."""
        try:
            async with mapped_errors(), asyncio.timeout(LOOKUP_TIMEOUT_S):
                await self._web.conversations_history(channel=channel, limit=1)
        except AdapterError as error:
            return code_of(error.__cause__ or error) not in NOT_A_MEMBER_CODES
        return True

    async def message(self, channel: str, ts: str, thread: str) -> Raw | None:
        """A message with its metadata, None if it cannot be read. `thread` is '' outside of threads."""
        try:
            async with mapped_errors(), asyncio.timeout(LOOKUP_TIMEOUT_S):
                answer = await self._web.conversations_replies(
                    channel=channel,
                    ts=thread or ts,
                    oldest=ts,
                    latest=ts,
                    inclusive=True,
                    include_all_metadata=True,
                    limit=2,  # Slack adds the first message of the thread
                )
        except AdapterError as error:
            log.info("A message in %s cannot be read: %s", channel, error)
            return None
        found = objects_of(body_of(answer), "messages")
        return next((each for each in found if text_of(each, "ts") == ts), None)
