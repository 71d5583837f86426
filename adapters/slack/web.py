"""The client of Slack's Web API, set up so that it does what it is told once and says nothing.

In: settings. Out: an AsyncWebClient. It promises: no call is repeated by the SDK, since a post whose answer was lost
would be posted twice; no proxy is used for an address that the environment excepts; nothing that people wrote reaches a
log.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from slack_sdk.http_retry import HttpRequest, HttpResponse, RetryState
from slack_sdk.http_retry.async_handler import AsyncRetryHandler
from slack_sdk.web.async_client import AsyncWebClient

from bot.config import Settings

CALL_TIMEOUT_S = 20.0
"""The longest that one call may take."""

SILENT = logging.getLogger("adapters.slack.sdk")
"""Given to the libraries, which at debug log whole messages, and at error what is told in a sentence elsewhere."""
SILENT.setLevel(logging.CRITICAL)


class RateLimitCounter(AsyncRetryHandler):
    """Counts what Slack refuses for the rate; nothing is ever repeated here."""

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
    """A client for the bot token, without a session: see `session`."""
    token = settings.slack_bot_token
    client = AsyncWebClient(
        token=token.get_secret_value() if token else None,
        base_url=settings.slack_api_url or AsyncWebClient.BASE_URL,
        timeout=int(timeout_s) or 1,
        retry_handlers=[counter] if counter else [],
        logger=SILENT,
    )
    client.proxy = proxy_for(client.base_url)  # the SDK's own choice knows no exceptions
    return client


def http_session(timeout_s: float = CALL_TIMEOUT_S) -> aiohttp.ClientSession:
    """Connections that calls share; whoever makes it closes it. A client without one makes one for each call."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s))


@asynccontextmanager
async def session_of(web: AsyncWebClient) -> AsyncIterator[aiohttp.ClientSession]:
    """The connections of a client, or some of its own where it has none."""
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
