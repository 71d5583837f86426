"""Stream status updates to open pages as server-sent events: the sample history first, then each new sample.

Serves at most MOST streams; drops a client that does not read an event within PATIENCE_S.
"""

import asyncio
import contextlib

from aiohttp import web

from bot.web.page_data import Status
from bot.web.sampler import Sampler

MOST = 16
PATIENCE_S = 10.0
"""Write timeout of one event, seconds."""
RETRY_S = 3
FULL = f"{MOST} status pages are open, the maximum; close one.\n"


class Stream:
    """The event streams of all open pages."""

    def __init__(self, status: Status, sampler: Sampler) -> None:
        self._status, self._sampler = status, sampler
        self._closing = False
        self.open = 0
        """The number of open streams."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send events until the client disconnects or `close` is called; 503 if MOST streams are open."""
        if self.open >= MOST:
            return web.Response(status=503, text=FULL, headers={"Retry-After": "30"})
        self.open += 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        try:
            async with asyncio.timeout(PATIENCE_S):
                await response.prepare(request)
            await self._feed(response)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.open -= 1
        return response

    def close(self) -> None:
        """End each stream after its current event."""
        self._closing = True

    async def _feed(self, response: web.StreamResponse) -> None:
        await self._send(response, "history", self._status.history())
        while not self._closing:
            await self._send(response, "now", self._status.now())
            await self._sampler.next()
        with contextlib.suppress(ConnectionError):
            await response.write_eof()

    async def _send(self, response: web.StreamResponse, event: str, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await response.write(b"retry: %d\nevent: %s\ndata: %s\n\n" % (RETRY_S * 1000, event.encode(), data))
