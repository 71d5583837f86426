"""One server at an address: finds out what it is and offers, and opens streams of completions.

Errors are four kinds: ServerFailed (try another server), Busy (try another one, or this one later), Refusal (the
request itself is wrong) and TooLong (the prompt does not fit). Their texts are for the log: they quote the server.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from bot.engine.remote.chat_stream import error_text
from bot.engine.remote.profiles import LLAMA_CPP, OLLAMA, OTHER, OWNERS, PROBES, SGLANG, TRANSFORMERS, VLLM, Profile
from bot.engine.text.template_signs import capabilities_of
from bot.types.display_names import one_line
from bot.types.engine import Capabilities, ServerState

log = logging.getLogger("inhouse.engine")

PROBE_S = 5.0
"""Timeout of each request that finds out about a server."""
CONNECT_S = 5.0
HEARD_S = 15.0
"""A server that sent something within this time may let a probe wait: it is busy, not down."""
FIRST_PAUSE_S, MOST_PAUSE_S = 0.25, 30.0
"""Pauses before a failed server is probed again; each failure in a row doubles them."""
ABORTED_S, ABORTED_CHECKS = 8.0, 4
"""Time in which a server should notice that a stream was closed, and how often it is asked meanwhile."""
MOST_BODY = 4_000_000
"""Largest answer that is read, except streams, bytes."""

MOST_ID = 300
"""Longest id of a model, characters."""
MOST_ASKED = 32
"""Most models whose settings Ollama is asked for."""
NUM_CTX = re.compile(r"^num_ctx[ \t]{1,40}(\d{1,9})[ \t]*$", re.MULTILINE)

Json = Mapping[str, Any]  # Any: values of JSON


class ServerFailed(Exception):
    """The server did not answer, or not sensibly.

    computed: it may have worked on the request, which then may be the cause. slow: it only did not answer in time.
    stale: the connection broke before an answer, as one does that was kept open while the server restarted.
    """

    def __init__(self, reason: str, *, computed: bool = True, slow: bool = False, stale: bool = False) -> None:
        super().__init__(reason)
        self.computed, self.slow, self.stale = computed, slow, stale


class Busy(Exception):
    """The server takes no more requests now. `seconds`: how long it asks to wait; 0 if it does not say."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Refusal(Exception):
    """The server refuses this request; it would do so again."""


class TooLong(Refusal):
    """The prompt and the answer do not fit the server's context window."""


class KeyRefused(Refusal):
    """The server refuses the key."""


class Server:
    """One server. `url`: the API's base, which ends with /v1 at most of them. key: hidden in the texts of errors.

    fresh: a session that opens a connection for each request.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, fresh: aiohttp.ClientSession, key: str = "") -> None:
        self.url, self._session, self._fresh, self._key = url.rstrip("/"), session, fresh, key
        self._root = self.url.removesuffix("/v1")
        self.profile: Profile = OTHER
        self.models: dict[str, int] = {}
        """Context window by the id of an offered model; 0 if the server does not say."""
        self._told: dict[str, Capabilities] = {}  # what it says about its models
        self.watching = False
        """Whether `watch_abort` runs."""
        self._swallows_aborts = False
        self._same_tokenizer: dict[str, bool] = {}  # by model, since its last start
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
        self.clock_s: float | None = None
        """How far its clock is ahead of ours, seconds; None if it does not say."""
        self.requests = self.failures = 0
        """Requests of this service that it got, and failures of the server."""
        self._in_a_row = 0  # failures since its last whole answer
        self._closed_until = 0.0  # no probe before this time of the monotonic clock
        self._heard = -HEARD_S

    @property
    def name(self) -> str:
        """Host and port, for operators."""
        return urlsplit(self.url).netloc

    def __str__(self) -> str:
        return self.name

    @property
    def state(self) -> ServerState:
        """What operators see of it."""
        return ServerState(
            self.name, self.profile.title, self.problem, self.running, self.requests, self.failures, tuple(self.models)
        )

    @property
    def hangs(self) -> bool:
        """Whether it neither answers probes nor sends parts of answers."""
        return bool(self.problem) and monotonic() - self._heard >= HEARD_S

    def heard(self) -> None:
        """Note that it sent a part of an answer."""
        self._heard = monotonic()

    def answered(self) -> None:
        """Note a whole answer."""
        self._in_a_row = 0

    def failed(self, error: Exception) -> None:
        """Note that it failed under a request: it is not used until a later probe succeeds."""
        self.failures += 1
        if self.problem:  # one death fails all its requests, and is one failure
            log.info("The server %s failed under another request: %s", self, error)
            return
        log.warning("The server %s failed: %s", self, error)
        self.problem = str(error)
        self._closed_until = monotonic() + min(FIRST_PAUSE_S * 2.0**self._in_a_row, MOST_PAUSE_S)
        self._in_a_row = min(self._in_a_row + 1, 16)

    def offers(self, model: str) -> bool:
        """Whether requests for a model can be sent here. transformers serve lists only what the hub's cache has."""
        return not self.problem and (model in self.models or self.profile is TRANSFORMERS)

    def capabilities_of(self, model: str) -> Capabilities:
        """What it can do with a model, as far as it says."""
        return replace(self._told.get(model, Capabilities()), lacks=self.profile.lacks)

    async def probe(self) -> None:
        """Find out whether the server answers, and what it offers; sets `problem`. Waits its time after a failure."""
        if monotonic() < self._closed_until:
            return
        was = self.problem
        try:
            began = monotonic()
            try:
                models = await self._get(f"{self.url}/models")
            except ServerFailed:
                if await self._probed() is not TRANSFORMERS:  # its list fails where there is no hub's cache
                    raise
                models = {"data": []}
            self.latency_s = monotonic() - began
            await self._learn(models)
            await self._check_health()
            self.problem, self.key_refused = "", False
        except KeyRefused as error:
            self.problem, self.key_refused = str(error), True
        except (ServerFailed, Busy, Refusal) as error:
            if isinstance(error, ServerFailed) and error.slow and monotonic() - self._heard < HEARD_S:
                return
            self.problem = str(error)
        if self.problem != was:
            if self.problem:
                log.warning("The server %s cannot be used: %s", self, self.problem)
            else:
                offered = self.clean(", ".join(self.models)) or "-"
                log.info("The server %s is %s and offers %s", self, self.profile.title, offered)

    async def watch_abort(self) -> None:
        """Warn, once, if the server goes on for ABORTED_S with a request whose stream was closed.

        Its load, by which servers are chosen, is read again meanwhile. The caller has set `watching`.
        """
        try:
            others = max(0, (self.published_load or 0) - self.running - 1)  # of other clients
            for _ in range(ABORTED_CHECKS):
                await asyncio.sleep(ABORTED_S / ABORTED_CHECKS)
                await self.refresh_load()
                if self.problem or self.published_load is None or self.published_load - self.running <= others:
                    return
            if not self._swallows_aborts:
                self._swallows_aborts = True
                log.warning(
                    "The server %s still works %.0f s after an answer was stopped (%d requests, %d of them ours): does"
                    " a proxy before it keep the connection open?",
                    *(self, ABORTED_S, self.published_load, self.running),
                )
        finally:
            self.watching = False

    async def refresh_load(self) -> None:
        """Read the numbers of running and waiting requests, if the server publishes them."""
        if self.problem or not self.profile.running:
            return
        try:
            async with self._request("GET", f"{self._root}/metrics", total_s=PROBE_S) as response:
                text = (await _body(response)).decode("utf-8", "replace")
        except (ServerFailed, Busy, Refusal):  # llama.cpp has metrics only with --metrics
            self.published_load = await self._busy_slots() if self.profile is LLAMA_CPP else None
            return
        names = (self.profile.running, self.profile.waiting)
        # Whole names: num_requests_waiting_by_reason has the same requests again.
        lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in names]
        values = [line.rsplit(" ", 1)[-1] for line in lines]
        try:
            self.published_load = round(sum(map(float, values))) if values else None
        except (ValueError, OverflowError):
            self.published_load = None

    async def _busy_slots(self) -> int | None:
        """Slots of llama.cpp's server that work; None if it does not show them."""
        try:
            async with self._request("GET", f"{self._root}/slots", total_s=PROBE_S) as response:
                slots = json.loads(await _body(response))
        except (ServerFailed, Busy, Refusal, ValueError, RecursionError):
            return None
        if not isinstance(slots, list):
            return None
        return sum(isinstance(slot, dict) and slot.get("is_processing") is True for slot in slots)

    async def tokenizes_like(self, model: str, sample: str, ids: Sequence[int]) -> bool:
        """Whether the server makes these ids of a text; asks once after each start of the server."""
        if not self.profile.token_ids:
            return False
        if model not in self._same_tokenizer:
            asked: Json = {"model": model, "prompt": sample, "add_special_tokens": False}
            if self.profile is LLAMA_CPP:
                asked = {"content": sample, "add_special": False, "parse_special": True}
            answer = await self._optional(f"{self._root}/tokenize", asked)
            if "tokens" not in answer:
                return False
            self._same_tokenizer[model] = answer["tokens"] == list(ids)
            if not self._same_tokenizer[model]:
                log.warning("The server %s tokenizes otherwise than the tokenizer of %s here", self, model)
        return self._same_tokenizer[model]

    async def count_tokens(self, model: str, messages: Sequence[Mapping[str, str]]) -> int:
        """Tokens of a chat in the server's template; 0 if it cannot count them."""
        if self.profile is VLLM:
            counted = await self._optional(f"{self._root}/tokenize", {"model": model, "messages": messages})
            return _count(counted.get("count"))
        if self.profile is LLAMA_CPP:
            applied = await self._optional(f"{self._root}/apply-template", {"messages": messages})
            text = {"content": applied.get("prompt", ""), "add_special": True, "parse_special": True}
            tokens = (await self._optional(f"{self._root}/tokenize", text)).get("tokens")
            return len(tokens) if isinstance(tokens, list) else 0
        return 0

    @asynccontextmanager
    async def stream(self, body: Json, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a stream, of a chat or of a `prompt` of token ids. Raises the four kinds of errors.

        Leaving the block closes it, which aborts the generation.
        """
        self.requests += 1
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

    async def _learn(self, models: Json) -> None:
        listed = models.get("data")
        if not isinstance(listed, list):
            raise ServerFailed("its list of models is not what OpenAI's API has")
        entries = [entry for entry in listed if isinstance(entry, dict) and _is_id(entry.get("id"))]
        if self.problem:  # it may be another server than before
            self.profile = OWNERS.get(str(entries[0].get("owned_by")) if entries else "", OTHER)
            if self.profile is OTHER:
                self.profile = await self._probed()
        props = await self._optional(f"{self._root}/props") if self.profile is LLAMA_CPP else {}
        generation = props.get("default_generation_settings")
        window = _count(generation.get("n_ctx")) if isinstance(generation, dict) else 0
        before = self.models if not self.problem else {}
        if self.problem:
            self._told, self._same_tokenizer = {}, {}
        if props:
            self._told = {entry["id"]: _llama_cpp_capabilities(props) for entry in entries}
        self.models = {entry["id"]: _count(entry.get("max_model_len")) or window for entry in entries}
        if self.profile is OLLAMA:
            await self._ollama_models(before)
        if self.profile is SGLANG and not self._told:
            sees = (await self._optional(f"{self._root}/get_model_info")).get("has_image_understanding")
            told = Capabilities(vision=sees if isinstance(sees, bool) else None)
            self._told = {entry["id"]: told for entry in entries}
        self.most_at_once = _count(props.get("total_slots")) or self.profile.most_at_once
        if not entries and self.profile is not TRANSFORMERS:
            raise ServerFailed("it lists no models")

    async def _ollama_models(self, before: Mapping[str, int]) -> None:
        """Read abilities and windows: of loaded models what was allocated, of others their num_ctx, if it is set."""
        loaded = (await self._optional(f"{self._root}/api/ps")).get("models")
        rows = loaded if isinstance(loaded, list) else []
        windows = {
            row["name"]: _count(row.get("context_length"))
            for row in rows
            if isinstance(row, dict) and isinstance(row.get("name"), str)
        }
        for model in list(self.models)[:MOST_ASKED]:
            window = windows.get(model) or before.get(model) or 0
            if model not in before:
                shown = await self._optional(f"{self._root}/api/show", {"model": model})
                parameters, able = shown.get("parameters"), shown.get("capabilities")
                found = NUM_CTX.search(parameters) if isinstance(parameters, str) else None
                window = window or (_count(int(found[1])) if found else 0)
                if isinstance(able, list):
                    self._told[model] = Capabilities("thinking" in able, "tools" in able, "vision" in able)
            self.models[model] = window

    async def _check_health(self) -> None:
        """Raise ServerFailed or Busy if it cannot answer now; llama.cpp lists models while it loads."""
        try:
            async with self._request("GET", f"{self._root}/health", total_s=PROBE_S):
                pass
        except Refusal:
            return  # it has no such address

    async def _probed(self) -> Profile:
        """Ask for what only one kind of server has."""
        for path, key, profile in PROBES:
            if key in await self._optional(f"{self._root}{path}"):
                return profile
        health = await self._optional(f"{self._root}/health")
        return TRANSFORMERS if health.get("status") == "ok" else OTHER

    async def _optional(self, url: str, body: Json | None = None) -> Json:
        """The JSON object at an address that not every server has; {} without one. body: sent with POST."""
        try:
            return await self._get(url, body)
        except (ServerFailed, Busy, Refusal):
            return {}

    async def _get(self, url: str, sent: Json | None = None) -> Json:
        method = "GET" if sent is None else "POST"
        async with self._request(method, url, json_body=sent, total_s=PROBE_S) as response:
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
        if response.status >= 500:
            return ServerFailed(text, computed=response.status not in (502, 504))  # these are a proxy's
        return TooLong(text) if _is_too_long(body, said) else Refusal(text)

    def _note_clock(self, date: str | None) -> None:
        if date and (ahead_s := _seconds_until(date)) is not None:
            self.clock_s = ahead_s

    def clean(self, text: str) -> str:
        """A text of the server on one line, not too long and without the key."""
        return one_line(text.replace(self._key, "[key]") if self._key else text, 300)


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


def _llama_cpp_capabilities(props: Json) -> Capabilities:
    """What /props says: the template's source and abilities, and the kinds of input."""
    template, caps, inputs = (props.get(name) for name in ("chat_template", "chat_template_caps", "modalities"))
    known = capabilities_of(template) if isinstance(template, str) else Capabilities()
    tools = caps.get("supports_tools") if isinstance(caps, dict) else None
    vision = inputs.get("vision") if isinstance(inputs, dict) else None
    return replace(
        known,
        tools=tools if isinstance(tools, bool) else known.tools,
        vision=vision if isinstance(vision, bool) else None,
    )


def _is_id(value: object) -> bool:
    """Whether this can be the id of a model: people see it, and choose by it."""
    return isinstance(value, str) and 0 < len(value) <= MOST_ID and value.isprintable()


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else 0


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
