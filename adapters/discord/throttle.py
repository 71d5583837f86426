"""Discord's limit for all requests of a bot together, kept from our side.

discord.py only learns of it by being refused, and such a refusal stops every channel at once. Discord counts a request
somewhere between its departure and its answer, so a place is free again a second after the answer: whatever the line
delays, no second of Discord's ever sees more requests than there are places.
"""

import asyncio
from types import SimpleNamespace

import aiohttp

REQUESTS_PER_WINDOW = 45
"""Requests within a second; Discord allows 50, and `inhouse doctor` may be asking too."""
WINDOW_S = 1.0
EXEMPT_PATHS = ("/interactions/", "/webhooks/")
"""Answers to commands and buttons, which Discord leaves out and which have three seconds."""


class GlobalRateLimit:
    """Lets requests pass, in the order in which they come."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(REQUESTS_PER_WINDOW)

    def add_to(self, config: aiohttp.TraceConfig) -> aiohttp.TraceConfig:
        """The same, and every request of the sessions that it watches passes here first, repeated ones too."""
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
