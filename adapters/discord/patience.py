"""How long one request to Discord may go without an answer: a line that died keeps nobody waiting for minutes.

discord.py waits for rate limits inside its calls, and a call that is interrupted there leaves its locks behind. So only
the time that a request is on the wire counts, which aiohttp's tracing tells.
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
    """Around calls of a client that has our trace. Raises TimeoutError when a request gets no answer."""
    async with asyncio.timeout(None) as limit:
        before = _limit.set(limit)
        try:
            yield
        finally:
            _limit.reset(before)


def timeout_trace(timeout_s: float, on_rate_limit: Callable[[], None]) -> aiohttp.TraceConfig:
    """What a client's session has to be watched with. `limited` is called for every answer 429."""

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
