"""A timeout for requests to Discord that counts only the time on the wire.

discord.py waits for rate limits inside its calls, and a call that is cancelled there leaves its locks held. So the
timeout runs only between aiohttp's trace events for the start and the end of a request.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar

import aiohttp

REQUEST_TIMEOUT_S = 30.0
TOO_MANY = 429

_limit: ContextVar[asyncio.Timeout | None] = ContextVar("limit", default=None)


@asynccontextmanager
async def request_timeout() -> AsyncIterator[None]:
    """Around calls of a client with our trace. Raises TimeoutError when a request gets no answer in time."""
    async with asyncio.timeout(None) as limit:
        before = _limit.set(limit)
        try:
            yield
        finally:
            _limit.reset(before)


def timeout_trace(timeout_s: float, on_rate_limit: Callable[[], None]) -> aiohttp.TraceConfig:
    """The trace for a client's HTTP session. `on_rate_limit` is called for each status 429."""

    async def started(*_: object) -> None:
        _reschedule(asyncio.get_running_loop().time() + timeout_s)

    async def ended(*_: object) -> None:
        _reschedule(None)

    async def answered(_: object, __: object, params: aiohttp.TraceRequestEndParams) -> None:
        if params.response.status == TOO_MANY:
            on_rate_limit()

    config = aiohttp.TraceConfig()
    config.on_request_start.append(started)
    config.on_request_end.extend((ended, answered))
    config.on_request_exception.append(ended)
    return config


def _reschedule(when: float | None) -> None:
    limit = _limit.get()
    if limit is not None and not limit.expired():
        limit.reschedule(when)
