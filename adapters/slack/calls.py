"""Calls of Slack's Web API that write: in turn, at Slack's pace, with refusals remembered.

In: a method, a channel and a call. Out: its answer. It promises: one call of a kind at a time in a channel; what was
refused for the rate is left alone for as long as Slack says; a channel that forbids writing is left alone for a while.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.failures import SHUT, code_of, limited, mapped
from adapters.slack.pace import Pace
from bot.errors import Rejected, RetryLater

log = logging.getLogger(__name__)

SHUT_S = 300.0
"""How long a channel that forbade writing is left alone."""

Call = Callable[[], Awaitable[AsyncSlackResponse]]


class Calls:
    """All calls that write."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._lanes: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._shut: dict[str, float] = {}
        self._forbidden = 0

    async def make(
        self, method: str, channel: str, call: Call, *, posting: bool = False, growth: bool = False
    ) -> AsyncSlackResponse:
        """Make a call when it may be made. Raises RetryLater, Rejected, Gone, or OutcomeUnknown where it posts.

        growth: it only shows more of a text, and gives way to everything else.
        """
        self._check_open(channel)
        lane = self._lanes.setdefault((method, channel), asyncio.Lock())
        async with lane:
            if growth:
                self.pace.growth(method, channel)
            else:
                await self.pace.turn(method, channel)
            try:
                async with mapped(posting=posting):
                    return await call()
            except RetryLater as error:
                if limited(error.__cause__):
                    self.pace.refused(method, channel, error.seconds)
                raise
            except Rejected as error:
                if error.__cause__ is not None and code_of(error.__cause__) in SHUT:
                    self._shut_out(channel)
                raise

    def _check_open(self, channel: str) -> None:
        if self._shut.get(channel, 0.0) > time.monotonic():
            raise Rejected("Slack does not allow writing there, as it said a moment ago.")

    def _shut_out(self, channel: str) -> None:
        self._forbidden += 1
        now = time.monotonic()
        self._shut = {each: until for each, until in self._shut.items() if until > now} | {channel: now + SHUT_S}
        log.warning(
            "Slack does not let me write in channel %s, so I leave it alone for a while (refusal number %d).",
            channel,
            self._forbidden,
        )
