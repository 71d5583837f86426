"""What the bot can see of a channel: whether it is in it, and single messages.

In: ids. Out: an answer within a second, since somebody waits for an acknowledgement; what Slack does not tell in time
is not known.
"""

import asyncio
import logging

from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.failures import code_of, mapped_errors
from adapters.slack.payloads import Raw, body_of, objects_of, text_of
from bot.errors import AdapterError

log = logging.getLogger(__name__)

LOOKUP_TIMEOUT_S = 1.0
NOT_A_MEMBER_CODES = ("not_in_channel", "channel_not_found")
NOT_A_MEMBER = (
    "I am not in this conversation, so nobody would see my answer: add me first (in a channel with `/invite`)."
)


class ChannelReader:
    """Looks into channels."""

    def __init__(self, web: AsyncWebClient) -> None:
        self._web = web

    async def can_post(self, channel: str) -> bool:
        """Whether the bot can write there; yes where it cannot be told."""
        try:
            async with mapped_errors(), asyncio.timeout(LOOKUP_TIMEOUT_S):
                await self._web.conversations_history(channel=channel, limit=1)
        except AdapterError as error:
            return code_of(error.__cause__ or error) not in NOT_A_MEMBER_CODES
        return True

    async def message(self, channel: str, ts: str, thread: str) -> Raw | None:
        """A message with its metadata, None if there is none or it cannot be told. `thread` is '' in none."""
        try:
            async with mapped_errors(), asyncio.timeout(LOOKUP_TIMEOUT_S):
                answer = await self._web.conversations_replies(
                    channel=channel,
                    ts=thread or ts,
                    oldest=ts,
                    latest=ts,
                    inclusive=True,
                    include_all_metadata=True,
                    limit=2,  # the first message of a thread comes with every other one
                )
        except AdapterError as error:
            log.info("A message in %s cannot be read: %s", channel, error)
            return None
        found = objects_of(body_of(answer), "messages")
        return next((each for each in found if text_of(each, "ts") == ts), None)
