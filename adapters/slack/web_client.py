"""Builds clients for Slack's Web API.

The SDK repeats no call, since a post whose answer was lost would be posted twice. Proxies follow the environment with
its exceptions. The SDK logs nothing, since its messages hold what people wrote.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from slack_sdk.http_retry import HttpRequest, HttpResponse, RetryState
from slack_sdk.http_retry.async_handler import AsyncRetryHandler
from slack_sdk.web.async_client import AsyncWebClient

from bot.config.settings import Settings
from bot.types.errors import NotSent

HELD_BACK_S = 1.0
CALL_TIMEOUT_S = 20.0
"""Timeout of one call, seconds."""

SILENT = logging.getLogger("adapters.slack.sdk")
"""The libraries' logger: at debug they log whole messages, at error what we log ourselves."""
SILENT.setLevel(logging.CRITICAL)


class RateLimitCounter(AsyncRetryHandler):
    """Counts rate limits; never repeats a call."""

    def __init__(self) -> None:
        super().__init__(max_retry_count=0)
        self.count = 0

    async def can_retry_async(
        self,
        *,
        state: RetryState,
        request: HttpRequest,
        response: HttpResponse | None = None,
        error: Exception | None = None,
    ) -> bool:
        """Called by the SDK after each call."""
        self.count += response is not None and response.status_code == 429
        return False


def web_client(
    settings: Settings, timeout_s: float = CALL_TIMEOUT_S, counter: RateLimitCounter | None = None
) -> AsyncWebClient:
    """A client for the bot token, without connections of its own: see `http_session`."""
    token = settings.slack_bot_token
    client = AsyncWebClient(
        token=token.get_secret_value() if token else None,
        base_url=settings.slack_api_url or AsyncWebClient.BASE_URL,
        timeout=int(timeout_s) or 1,
        retry_handlers=[counter] if counter else [],
        logger=SILENT,
    )
    client.proxy = proxy_for(client.base_url)  # the SDK ignores NO_PROXY
    return client


def http_session(
    timeout_s: float = CALL_TIMEOUT_S, may_send: Callable[[], bool] = lambda: True
) -> aiohttp.ClientSession:
    """A connection pool for a client, to be closed by the caller. Without one, each call opens its own connection.

    may_send: asked right before each message is sent, which raises NotSent if it may not.
    """

    async def check(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        if "/chat." in params.url.path and not may_send():
            raise NotSent(HELD_BACK_S, "another host may have taken over")

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(check)
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s), trace_configs=[trace])


@asynccontextmanager
async def session_of(web: AsyncWebClient) -> AsyncIterator[aiohttp.ClientSession]:
    """A client's connection pool, or a temporary one."""
    if web.session is not None and not web.session.closed:
        yield web.session
        return
    async with http_session() as own:
        yield own


def proxy_for(url: str) -> str | None:
    """The environment's proxy for an address, if there is one."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get({"wss": "https", "ws": "http"}.get(parts.scheme, parts.scheme))
