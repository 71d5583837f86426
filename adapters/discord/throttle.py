"""Discord's limit for all requests of a bot together, kept from our side.

discord.py only learns of it by being refused, and such a refusal stops every channel at once. Discord counts a request
somewhere between its departure and its answer, so a place is free again a second after the answer: whatever the line
delays, no second of Discord's ever sees more requests than there are places.
"""

import asyncio
from types import SimpleNamespace

import aiohttp

PLACES = 45
"""Requests within a second; Discord allows 50, and `inhouse doctor` may be asking too."""
WINDOW_S = 1.0
UNCOUNTED = ("/interactions/", "/webhooks/")
"""Answers to commands and buttons, which Discord leaves out and which have three seconds."""


class Throttle:
    """Lets requests pass, in the order in which they come."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(PLACES)

    def added_to(self, config: aiohttp.TraceConfig) -> aiohttp.TraceConfig:
        """The same, and every request of the sessions that it watches passes here first, repeated ones too."""
        config.on_request_start.insert(0, self._start)
        config.on_request_end.append(self._over)
        config.on_request_exception.append(self._over)
        return config

    async def _start(self, _: object, request: SimpleNamespace, params: aiohttp.TraceRequestStartParams) -> None:
        request.counted = False
        if not any(part in params.url.path for part in UNCOUNTED):
            await self._places.acquire()
            request.counted = True

    async def _over(self, _: object, request: SimpleNamespace, __: object) -> None:
        if request.counted:
            asyncio.get_running_loop().call_later(WINDOW_S, self._places.release)
