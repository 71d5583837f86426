"""Sends requests to one server's API, and maps everything that can go wrong to four kinds of errors.

ServerFailed (try another server), Busy (try another one, or this one later), Refusal (the request itself is wrong) and
TooLong (the prompt does not fit). Their texts are for the log: they quote the server.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from bot.engine.remote.chat_stream import Json, error_text
from bot.types.display_names import one_line

ASK_S = 5.0
"""Timeout of a request that asks the server about itself."""
CONNECT_S = 5.0
MOST_BODY = 4_000_000
"""Largest answer that is read, except streams, bytes."""
MOST_QUOTED = 300
"""Most characters of a server's words in a line of the log."""


class ServerFailed(Exception):
    """The server did not answer, or not sensibly.

    computed: it may have worked on the request, which then may be the cause. slow: it only did not answer in time.
    stale: the connection broke before an answer, as one does that was kept open while the server restarted. answered:
    it reported an error of its own, which may be one of this request only.
    """

    def __init__(
        self,
        reason: str,
        *,
        computed: bool = True,
        slow: bool = False,
        stale: bool = False,
        answered: bool = False,
    ) -> None:
        super().__init__(reason)
        self.computed, self.slow, self.stale, self.answered = computed, slow, stale, answered


class Busy(Exception):
    """The server takes no more requests now. `seconds`: how long it asks to wait; 0 if it does not say."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Refusal(Exception):
    """The server refuses this request; it would do so again."""


class TooLong(Refusal):
    """The prompt and the answer do not fit the server's context window."""


class EffortRefused(Refusal):
    """The model does not know this word for how much it is to think."""


class KeyRefused(Refusal):
    """The server refuses the key."""


class ApiClient:
    """The API of one server. url: its base, which ends with /v1 at most servers. key: hidden in the texts of errors.

    fresh: a session that opens a connection for each request. clock_s: how far the server's clock is ahead of ours,
    seconds; None if it does not say.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, fresh: aiohttp.ClientSession, key: str) -> None:
        self.url, self._session, self._fresh, self._key = url.rstrip("/"), session, fresh, key
        self._root = self.url.removesuffix("/v1")
        self.clock_s: float | None = None

    async def models(self) -> Json:
        """The list of models. Raises the four kinds of errors."""
        return await self._json_at(f"{self.url}/models")

    async def optional(self, path: str, body: Json | None = None) -> Json:
        """The JSON object at a path that not every server has; {} without one. body: sent with POST.

        path: below the root, which is the base without /v1.
        """
        try:
            return await self._json_at(self._root + path, body)
        except (ServerFailed, Busy, Refusal):
            return {}

    async def read(self, path: str) -> bytes:
        """The body at a path below the root. Raises the four kinds of errors."""
        async with self._request("GET", self._root + path, total_s=ASK_S) as response:
            return await _body(response)

    @asynccontextmanager
    async def stream(self, body: Json, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a stream, of a chat or of a `prompt` of token ids. Raises the four kinds of errors.

        Leaving the block closes it, which aborts the generation.
        """
        url = f"{self.url}/{'completions' if 'prompt' in body else 'chat/completions'}"
        async with AsyncExitStack() as stack:
            try:
                opening = self._request("POST", url, json_body=body, headers=headers)
                response = await stack.enter_async_context(opening)
            except ServerFailed as error:
                if not error.stale:
                    raise
                opening = self._request("POST", url, json_body=body, headers=headers, session=self._fresh)
                try:
                    response = await stack.enter_async_context(opening)
                except ServerFailed as again:
                    again.computed = True  # the server may have ended because of the request
                    raise
            if "text/event-stream" not in response.content_type:
                text = (await _body(response)).decode("utf-8", "replace")
                raise ServerFailed(f"it answered {response.content_type} instead of a stream: {self.clean(text)}")
            yield response

    def clean(self, text: str) -> str:
        """A text of the server on one line, not too long and without the key."""
        return one_line(text.replace(self._key, "[key]") if self._key else text, MOST_QUOTED)

    async def _json_at(self, url: str, sent: Json | None = None) -> Json:
        method = "GET" if sent is None else "POST"
        async with self._request(method, url, json_body=sent, total_s=ASK_S) as response:
            body = await _json(response)
            self._note_clock(response.headers.get("Date"))
        if body is None:
            raise ServerFailed("it answered something that is not JSON; is the address that of the API, with /v1?")
        return body

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: str,
        *,
        json_body: Json | None = None,
        headers: Mapping[str, str] | None = None,
        total_s: float | None = None,
        session: aiohttp.ClientSession | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Raises ServerFailed, Busy, Refusal, TooLong or KeyRefused for every answer that is not a success.

        total_s: seconds for the whole; None: only connecting has a limit.
        """
        limits = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_S)
        try:
            async with (session or self._session).request(
                method, url, json=json_body, headers=headers, timeout=limits, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await self._refused(response)
                yield response
        except aiohttp.ClientConnectorCertificateError as error:
            reason = "its certificate is not trusted: set INHOUSE_ENGINE_CA to the file of its CA"
            raise ServerFailed(reason, computed=False) from error
        except aiohttp.ClientConnectorError as error:
            raise ServerFailed(f"no connection ({_cause(error.os_error)})", computed=False) from error
        except TimeoutError as error:
            unconnected = isinstance(error, aiohttp.ConnectionTimeoutError)
            raise ServerFailed("it did not answer in time", computed=not unconnected, slow=True) from error
        except RuntimeError as error:
            if not self._session.closed:
                raise
            raise ServerFailed("the connections to it are closed", computed=False) from error
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError, ValueError) as error:
            stale = isinstance(error, aiohttp.ServerDisconnectedError | OSError)
            raise ServerFailed(self.clean(_cause(error)), stale=stale) from error

    async def _refused(self, response: aiohttp.ClientResponse) -> Exception:
        """The error for an answer whose status is not 200."""
        if 300 <= response.status < 400:
            to = self.clean(response.headers.get("Location", "nowhere"))
            return ServerFailed(f"it redirects to {to}: use that address", computed=False)
        body = await _json(response) or {}
        said = error_text(body) or response.reason or ""
        text = f"it answered {response.status}: {self.clean(said)}"
        if response.status in (401, 403):
            return KeyRefused(f"it refuses the key in INHOUSE_ENGINE_KEY ({response.status})")
        if response.status in (429, 503, 529):
            return Busy(text, _seconds(response.headers.get("Retry-After")))
        if "reasoning effort" in said.lower().replace("_", " "):  # llama.cpp answers 500 where a template fails
            return EffortRefused(text)
        if response.status >= 500:
            own = response.status not in (502, 504)  # these are a proxy's
            return ServerFailed(text, computed=own, answered=own)
        return TooLong(text) if _is_too_long(body, said) else Refusal(text)

    def _note_clock(self, date: str | None) -> None:
        if date and (ahead_s := _seconds_until(date)) is not None:
            self.clock_s = ahead_s


def _is_too_long(body: Json, text: str) -> bool:
    error = body.get("error")
    kind = f"{error.get('type')} {error.get('code')} {error.get('param')}" if isinstance(error, dict) else ""
    signs = ("exceed_context_size", "context_length_exceeded", "input_tokens", "context length", "context window")
    return any(sign in f"{kind} {text}".lower() for sign in signs)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The body of an answer, at most MOST_BODY of it."""
    parts, size = [], 0
    async for piece in response.content.iter_any():
        parts.append(piece)
        size += len(piece)
        if size > MOST_BODY:
            break
    return b"".join(parts)


async def _json(response: aiohttp.ClientResponse) -> Json | None:
    """The JSON object of an answer; None if it is none."""
    try:
        body = json.loads(await _body(response))
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _seconds(value: str | None) -> float:
    """Seconds of a Retry-After, which is a number or a date; 0 without one."""
    if value is None:
        return 0.0
    if value.isascii() and value.isdecimal():
        return float(value[:5])
    return max(0.0, _seconds_until(value) or 0.0)


def _seconds_until(date: str) -> float | None:
    """Seconds from now to the date of a header; None if it is none."""
    try:
        then = parsedate_to_datetime(date[:100])
        return (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
