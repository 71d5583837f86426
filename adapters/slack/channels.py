"""Finds out whether the bot is a member of a channel; takes a second at most, since an acknowledgement waits for it."""

import asyncio
import logging

from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.error_mapping import code_of, mapped_errors
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
