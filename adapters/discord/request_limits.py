"""Limits requests to Discord by traces of aiohttp: a timeout for the time on the wire, and the global rate limit.

discord.py waits for rate limits inside its calls, and a call that is cancelled there leaves its locks held. So the
timeout runs only between aiohttp's trace events for the start and the end of a request.

discord.py learns of the global rate limit of 50 requests a second only by a refusal, which stops all channels. Discord
counts a request at some moment between its start and its answer, so a slot is free again one second after the answer:
with any network delay, no second of Discord's has more requests than there are slots.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import SimpleNamespace

import aiohttp

from bot.platforms.turns import Turns
from bot.types.errors import NotSent

REQUEST_TIMEOUT_S = 30.0
TOO_MANY = 429
REQUESTS_PER_WINDOW = 45
"""Discord allows 50, and `inhouse doctor` may run at the same time."""
WINDOW_S = 1.0
EXEMPT_PATHS = ("/interactions/", "/webhooks/")
"""Answers to interactions, which do not count and must be sent within three seconds."""

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


class GlobalRateLimit:
    """Delays requests, in their order, to stay within the limit, of which each host takes its share.

    A message is held back here, too, if another host may have taken over while discord.py waited for a rate limit.
    """

    def __init__(self, turns: Callable[[], Turns]) -> None:
        self._turns = turns
        self._used = 0
        self._first = asyncio.Lock()  # held by the request that comes next
        self._freed = asyncio.Event()

    def add_to(self, config: aiohttp.TraceConfig) -> aiohttp.TraceConfig:
        """Make a trace delay every request of its HTTP sessions, including discord.py's retries."""
        config.on_request_start.insert(0, self._acquire)
        config.on_request_end.append(self._release)
        config.on_request_exception.append(self._release)
        return config

    async def _acquire(self, _: object, request: SimpleNamespace, params: aiohttp.TraceRequestStartParams) -> None:
        request.counted = False
        if any(part in params.url.path for part in EXEMPT_PATHS):
            return
        async with self._first:
            while self._used >= max(1, REQUESTS_PER_WINDOW // max(1, self._turns().hosts)):
                self._freed.clear()
                await self._freed.wait()
        if params.method != "GET" and "/messages" in params.url.path and not self._turns().may_send:
            raise NotSent(WINDOW_S, "another host may have taken over")
        self._used += 1
        request.counted = True

    async def _release(self, _: object, request: SimpleNamespace, __: object) -> None:
        if request.counted:
            asyncio.get_running_loop().call_later(WINDOW_S, self._free)

    def _free(self) -> None:
        self._used -= 1
        self._freed.set()
