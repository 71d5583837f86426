"""Keeps within Discord's global rate limit of 50 requests a second.

discord.py learns of it only by a refusal, which stops all channels. Discord counts a request at some moment between its
start and its answer, so a slot is free again one second after the answer: with any network delay, no second of
Discord's has more requests than there are slots.
"""

import asyncio
from types import SimpleNamespace

import aiohttp

REQUESTS_PER_WINDOW = 45
"""Discord allows 50, and `inhouse doctor` may run at the same time."""
WINDOW_S = 1.0
EXEMPT_PATHS = ("/interactions/", "/webhooks/")
"""Answers to interactions, which do not count and must be sent within three seconds."""


class GlobalRateLimit:
    """Delays requests, in their order, to stay within the limit."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(REQUESTS_PER_WINDOW)

    def add_to(self, config: aiohttp.TraceConfig) -> aiohttp.TraceConfig:
        """Make a trace delay every request of its HTTP sessions, including discord.py's retries."""
        config.on_request_start.insert(0, self._acquire)
        config.on_request_end.append(self._release)
        config.on_request_exception.append(self._release)
        return config

    async def _acquire(self, _: object, request: SimpleNamespace, params: aiohttp.TraceRequestStartParams) -> None:
        request.counted = False
        if not any(part in params.url.path for part in EXEMPT_PATHS):
            await self._slots.acquire()
            request.counted = True

    async def _release(self, _: object, request: SimpleNamespace, __: object) -> None:
        if request.counted:
            asyncio.get_running_loop().call_later(WINDOW_S, self._slots.release)
