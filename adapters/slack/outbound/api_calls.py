"""Makes the Web API calls that write: one at a time per method and channel, within Slack's rate limits; uploads files.

After a rate limit a method is not called again for as long as Slack says. A channel that forbids writing is not tried
again for FORBIDDEN_S.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.error_mapping import CHANNEL_FORBIDDEN, code_of, is_rate_limited, mapped_errors
from adapters.slack.outbound.rate_limits import RateLimits
from adapters.slack.web_client import proxy_for, session_of
from bot.types.errors import Rejected, RetryLater
from bot.types.messages import Attachment

log = logging.getLogger(__name__)

FORBIDDEN_S = 300.0
"""How long a channel that forbids writing is not tried again, seconds."""

Call = Callable[[], Awaitable[AsyncSlackResponse]]


class WriteCalls:
    """The write calls of one bot."""

    def __init__(self, rate_limits: RateLimits) -> None:
        self.rate_limits = rate_limits
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._forbidden_until: dict[str, float] = {}
        self._refusals = 0

    async def make(
        self, method: str, channel: str, call: Call, *, posting: bool = False, progress: bool = False
    ) -> AsyncSlackResponse:
        """Make a call within the rate limits. Raises RetryLater, Rejected, Gone, or OutcomeUnknown if `posting`.

        progress: the call only shows more of an unfinished text; all other calls take precedence.
        """
        lock = self._locks.setdefault((method, channel), asyncio.Lock())
        async with lock:
            self._check_allowed(channel)  # the call before may have been forbidden
            if progress:
                self.rate_limits.try_progress(method, channel)
            else:
                await self.rate_limits.acquire(method, channel)
            try:
                async with mapped_errors(posting=posting):
                    return await call()
            except RetryLater as error:
                if is_rate_limited(error.__cause__):
                    self.rate_limits.block(method, channel, error.seconds)
                raise
            except Rejected as error:
                if error.__cause__ is not None and code_of(error.__cause__) in CHANNEL_FORBIDDEN:
                    self._block_channel(channel)
                raise

    def _check_allowed(self, channel: str) -> None:
        if self._forbidden_until.get(channel, 0.0) > time.monotonic():
            raise Rejected("Slack forbade writing in this channel a few minutes ago.")

    def _block_channel(self, channel: str) -> None:
        self._refusals += 1
        now = time.monotonic()
        self._forbidden_until = {each: until for each, until in self._forbidden_until.items() if until > now} | {
            channel: now + FORBIDDEN_S
        }
        log.warning(
            "Slack forbids writing in channel %s; no more tries there for five minutes (refusal number %d).",
            channel,
            self._refusals,
        )


async def upload(web: AsyncWebClient, file: Attachment, channel: str, thread: str = "") -> None:
    """Share a file in a channel, or in a thread of it. Raises RetryLater, Rejected, or OutcomeUnknown.

    The file is invisible until it is shared, so only that step must not be repeated.
    """
    data = file.text.encode()
    async with mapped_errors():
        reserved = await web.files_getUploadURLExternal(filename=file.name, length=len(data))
        url = str(reserved["upload_url"])
        async with session_of(web) as session, session.post(url, data=data, proxy=proxy_for(url)) as answer:
            if 400 <= answer.status < 500:  # perhaps a firewall; a retry would not help
                raise Rejected(f"Slack's upload server refused the file (status {answer.status}).")
            answer.raise_for_status()
    async with mapped_errors(posting=True):
        await web.files_completeUploadExternal(
            files=[{"id": str(reserved["file_id"]), "title": file.name}],
            channel_id=channel,
            thread_ts=thread or None,
        )
