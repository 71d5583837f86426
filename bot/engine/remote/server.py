"""One server at an address: finds out what it is and offers, and opens streams of chat completions.

Errors are three kinds: ServerFailed (try another server, or this one later), Refusal (the request itself is wrong) and
TooLong (the prompt does not fit).
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from bot.engine.remote.chat_stream import error_text
from bot.engine.remote.profiles import LLAMA_CPP, OTHER, OWNERS, PROBES, TRANSFORMERS, Profile

log = logging.getLogger("inhouse.engine")

PROBE_S = 5.0
"""Timeout of each request that finds out about a server."""
CONNECT_S = 5.0
MOST_BODY = 4_000_000
"""Largest answer that is read, except streams, bytes."""

Json = Mapping[str, Any]  # Any: values of JSON


class ServerFailed(Exception):
    """The server did not answer, or not sensibly. `retry_after`: seconds that it asks to wait; 0 if it says nothing."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Refusal(Exception):
    """The server refuses this request; it would do so again."""


class TooLong(Refusal):
    """The prompt and the answer do not fit the server's context window."""


class KeyRefused(Refusal):
    """The server refuses the key."""


class Server:
    """One server. `url`: the API's base, which ends with /v1 at most of them."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self._session = url.rstrip("/"), session
        self._root = self.url.removesuffix("/v1")
        self.profile: Profile = OTHER
        self.models: dict[str, int] = {}
        """Context window by the id of an offered model; 0 if the server does not say."""
        self.most_at_once = OTHER.most_at_once
        self.problem = "it was not asked yet"
        """Why the server cannot be used now, as a phrase; '' if it can."""
        self.key_refused = False
        self.published_load: int | None = None
        """Requests that it runs or keeps waiting, of all its clients; None if it does not say."""
        self.running = 0
        """Requests of this service that it runs."""
        self.latency_s = 0.0
        """Time that it took to list its models."""

    @property
    def name(self) -> str:
        """Host and port, for people."""
        return urlsplit(self.url).netloc

    def __str__(self) -> str:
        return self.url

    def offers(self, model: str) -> bool:
        """Whether requests for a model can be sent here. transformers serve lists only what the hub's cache has."""
        return not self.problem and (model in self.models or self.profile is TRANSFORMERS)

    async def probe(self) -> None:
        """Find out whether the server answers, and what it offers; sets `problem`."""
        was = self.problem
        try:
            began = time.monotonic()
            try:
                models = await self._get(f"{self.url}/models")
            except ServerFailed:
                if await self._probed() is not TRANSFORMERS:  # its list fails where there is no hub's cache
                    raise
                models = {"data": []}
            self.latency_s = time.monotonic() - began
            await self._learn(models)
            self.problem, self.key_refused = "", False
        except KeyRefused as error:
            self.problem, self.key_refused = str(error), True
        except (ServerFailed, Refusal) as error:
            self.problem = str(error)
        if self.problem != was:
            if self.problem:
                log.warning("The server %s cannot be used: %s", self, self.problem)
            else:
                log.info("The server %s is %s and offers %s", self, self.profile.title, ", ".join(self.models) or "-")

    async def refresh_load(self) -> None:
        """Read the numbers of running and waiting requests, if the server publishes them."""
        if self.problem or not self.profile.running:
            return
        try:
            async with self._request("GET", f"{self._root}/metrics", total_s=PROBE_S) as response:
                text = (await _body(response)).decode("utf-8", "replace")
        except (ServerFailed, Refusal):  # llama.cpp has metrics only with --metrics
            self.published_load = None
            return
        names = (self.profile.running, self.profile.waiting)
        values = [line.rsplit(" ", 1)[-1] for line in text.splitlines() if line.startswith(names)]
        try:
            self.published_load = round(sum(map(float, values))) if values else None
        except (ValueError, OverflowError):
            self.published_load = None

    @asynccontextmanager
    async def stream(self, body: Json, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a stream; leaving the block closes it, which aborts the generation. Raises the three kinds of errors."""
        async with self._request("POST", f"{self.url}/chat/completions", json_body=body, headers=headers) as response:
            if "text/event-stream" not in response.content_type:
                text = (await _body(response)).decode("utf-8", "replace")
                raise ServerFailed(f"it answered {response.content_type} instead of a stream: {_short(text)}")
            yield response

    async def _learn(self, models: Json) -> None:
        listed = models.get("data")
        if not isinstance(listed, list):
            raise ServerFailed("its list of models is not what OpenAI's API has")
        entries = [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        props: Json = {}
        self.profile = OWNERS.get(str(entries[0].get("owned_by")) if entries else "", OTHER)
        if self.profile is OTHER:
            self.profile = await self._probed()
        if self.profile is LLAMA_CPP:
            props = await self._optional(f"{self._root}/props")
        generation = props.get("default_generation_settings")
        window = _count(generation.get("n_ctx")) if isinstance(generation, dict) else 0
        self.models = {entry["id"]: _count(entry.get("max_model_len")) or window for entry in entries}
        self.most_at_once = _count(props.get("total_slots")) or self.profile.most_at_once

    async def _probed(self) -> Profile:
        """Ask for what only one kind of server has."""
        for path, key, profile in PROBES:
            if key in await self._optional(f"{self._root}{path}"):
                return profile
        health = await self._optional(f"{self._root}/health")
        return TRANSFORMERS if health.get("status") == "ok" else OTHER

    async def _optional(self, url: str) -> Json:
        """The JSON object at an address that not every server has; {} without one."""
        try:
            return await self._get(url)
        except (ServerFailed, Refusal):
            return {}

    async def _get(self, url: str) -> Json:
        async with self._request("GET", url, total_s=PROBE_S) as response:
            body = await _json(response)
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
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Raises ServerFailed, Refusal, TooLong or KeyRefused for every answer that is not a success.

        total_s: seconds for the whole; None: only connecting has a limit.
        """
        limits = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_S)
        try:
            async with self._session.request(
                method, url, json=json_body, headers=headers, timeout=limits, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await _refused(response)
                yield response
        except aiohttp.ClientConnectorCertificateError as error:
            raise ServerFailed("its certificate is not trusted: set INHOUSE_ENGINE_CA to the file of its CA") from error
        except aiohttp.ClientConnectorError as error:
            raise ServerFailed(f"no connection ({_cause(error.os_error)})") from error
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            raise ServerFailed(_cause(error)) from error


async def _refused(response: aiohttp.ClientResponse) -> Exception:
    """The error for an answer whose status is not 200."""
    if 300 <= response.status < 400:
        return ServerFailed(f"it redirects to {_short(response.headers.get('Location', 'nowhere'))}: use that address")
    body = await _json(response) or {}
    text = _short(error_text(body) or response.reason or "")
    if response.status in (401, 403):
        return KeyRefused(f"it refuses the key in INHOUSE_ENGINE_KEY ({response.status})")
    if response.status in (429, 502, 503, 504, 529) or response.status >= 500:
        return ServerFailed(f"it answered {response.status}: {text}", _seconds(response.headers.get("Retry-After")))
    if _is_too_long(body, text):
        return TooLong(text)
    return Refusal(f"it answered {response.status}: {text}")


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


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else 0


def _seconds(value: str | None) -> float:
    return float(value) if value is not None and value.isascii() and value.isdecimal() and len(value) < 5 else 0.0


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:299]}…"


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return _short(getattr(error, "strerror", None) or str(error)) or type(error).__name__
