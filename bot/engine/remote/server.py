"""One server at an address: finds out what it is and offers, and opens streams of completions."""

import asyncio
import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from time import monotonic
from urllib.parse import urlsplit

import aiohttp

from bot.engine.remote.api_client import ApiClient, Busy, KeyRefused, Refusal, ServerFailed
from bot.engine.remote.chat_stream import Json
from bot.engine.remote.profiles import LLAMA_CPP, OLLAMA, OTHER, OWNERS, PROBES, SGLANG, TRANSFORMERS, VLLM, Profile
from bot.engine.text.template_signs import capabilities_of
from bot.types.engine import Capabilities, ServerState

log = logging.getLogger("inhouse.engine")

HEARD_S = 15.0
"""A server that sent something within this time may let a probe wait: it is busy, not down."""
FIRST_PAUSE_S, MOST_PAUSE_S = 0.25, 30.0
"""Pauses before a failed server is probed again; each failure in a row doubles them."""
MOST_ERRORS = 5
"""Errors in a row that a server may report while it is used; one request, tried again, makes up to four."""
ABORTED_S, ABORTED_CHECKS = 8.0, 4
"""Time in which a server should notice that a stream was closed, and how often it is asked meanwhile."""
MOST_ID = 300
"""Longest id of a model, characters."""
MOST_ASKED = 32
"""Most models whose settings Ollama is asked for."""
NUM_CTX = re.compile(r"^num_ctx[ \t]{1,40}(\d{1,9})[ \t]*$", re.MULTILINE)


class Server:
    """One server, at the address of `api`."""

    def __init__(self, api: ApiClient) -> None:
        self.api = api
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
        self.requests = self.failures = 0
        """Requests of this service that it got, and failures of the server."""
        self._in_a_row = 0  # failures since its last whole answer
        self._errors = 0  # errors that it reported since then
        self._closed_until = 0.0  # no probe before this time of the monotonic clock
        self._heard = -HEARD_S

    @property
    def name(self) -> str:
        """Host and port, for operators."""
        return urlsplit(self.api.url).netloc

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
        self._in_a_row = self._errors = 0

    def failed(self, error: Exception) -> None:
        """Note that it failed under a request: it is not used until a later probe succeeds.

        A server that reports errors is used until MOST_ERRORS in a row: they may be those of single requests.
        """
        self.failures += 1
        if isinstance(error, ServerFailed) and error.answered and not self.problem:
            self._errors += 1
            if self._errors < MOST_ERRORS:
                log.warning("The server %s failed under a request: %s", self, error)
                return
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
                models = await self.api.models()
            except ServerFailed as error:
                if error.slow or not error.computed:  # it says nothing about itself now
                    raise
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
                offered = self.api.clean(", ".join(self.models)) or "-"
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
            text = (await self.api.read("/metrics")).decode("utf-8", "replace")
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
            slots = json.loads(await self.api.read("/slots"))
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
            answer = await self.api.optional("/tokenize", asked)
            if "tokens" not in answer:
                return False
            self._same_tokenizer[model] = answer["tokens"] == list(ids)
            if not self._same_tokenizer[model]:
                log.warning("The server %s tokenizes otherwise than the tokenizer of %s here", self, model)
        return self._same_tokenizer[model]

    async def count_tokens(self, model: str, messages: Sequence[Mapping[str, str]]) -> int:
        """Tokens of a chat in the server's template; 0 if it cannot count them."""
        if self.profile is VLLM:
            counted = await self.api.optional("/tokenize", {"model": model, "messages": messages})
            return _count(counted.get("count"))
        if self.profile is LLAMA_CPP:
            applied = await self.api.optional("/apply-template", {"messages": messages})
            text = {"content": applied.get("prompt", ""), "add_special": True, "parse_special": True}
            tokens = (await self.api.optional("/tokenize", text)).get("tokens")
            return len(tokens) if isinstance(tokens, list) else 0
        return 0

    def stream(self, body: Json, headers: Mapping[str, str]) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Open a stream as ApiClient.stream, and count the request."""
        self.requests += 1
        return self.api.stream(body, headers)

    async def _learn(self, models: Json) -> None:
        listed = models.get("data")
        if not isinstance(listed, list):
            raise ServerFailed("its list of models is not what OpenAI's API has")
        entries = [entry for entry in listed if isinstance(entry, dict) and _is_id(entry.get("id"))]
        if self.problem:  # it may be another server than before
            self.profile = OWNERS.get(str(entries[0].get("owned_by")) if entries else "", OTHER)
            if self.profile is OTHER:
                self.profile = await self._probed()
        props = await self.api.optional("/props") if self.profile is LLAMA_CPP else {}
        generation = props.get("default_generation_settings")
        window = _count(generation.get("n_ctx")) if isinstance(generation, dict) else 0
        before = self.models if not self.problem else {}
        if self.problem:
            self._told, self._same_tokenizer = {}, {}
        if props:
            self._told = {entry["id"]: _llama_cpp_capabilities(props) for entry in entries}
        models = {entry["id"]: _window(entry) or window or before.get(entry["id"], 0) for entry in entries}
        self.models = await self._ollama_models(models, before) if self.profile is OLLAMA else models
        if self.profile is SGLANG and not self._told:
            sees = (await self.api.optional("/get_model_info")).get("has_image_understanding")
            told = Capabilities(vision=sees if isinstance(sees, bool) else None)
            self._told = {entry["id"]: told for entry in entries}
        usual = self.most_at_once if before else self.profile.most_at_once
        self.most_at_once = _count(props.get("total_slots")) or usual
        if not entries and self.profile is not TRANSFORMERS:
            raise ServerFailed("it lists no models")

    async def _ollama_models(self, models: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
        """Read abilities, and return windows: of loaded models what was allocated, of others num_ctx, if it is set."""
        loaded = (await self.api.optional("/api/ps")).get("models")
        rows = loaded if isinstance(loaded, list) else []
        windows = {
            row["name"]: _count(row.get("context_length"))
            for row in rows
            if isinstance(row, dict) and isinstance(row.get("name"), str)
        }
        found = dict(models)
        for model in list(models)[:MOST_ASKED]:
            window = windows.get(model) or before.get(model) or 0
            if model not in before:
                shown = await self.api.optional("/api/show", {"model": model})
                parameters, able = shown.get("parameters"), shown.get("capabilities")
                set_there = NUM_CTX.search(parameters) if isinstance(parameters, str) else None
                window = window or (_count(int(set_there[1])) if set_there else 0)
                if isinstance(able, list):
                    self._told[model] = Capabilities("thinking" in able, "tools" in able, "vision" in able)
            found[model] = window
        return found

    async def _check_health(self) -> None:
        """Raise ServerFailed or Busy if it cannot answer now; llama.cpp lists models while it loads."""
        try:
            await self.api.read("/health")
        except Refusal:
            return  # it has no such address

    async def _probed(self) -> Profile:
        """Ask for what only one kind of server has."""
        for path, key, profile in PROBES:
            if key in await self.api.optional(path):
                return profile
        health = await self.api.optional("/health")
        return TRANSFORMERS if health.get("status") == "ok" else OTHER


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


def _window(entry: Json) -> int:
    """The context window in a row of the list of models; 0 if it has none."""
    metadata = entry.get("metadata")  # of Ray
    told = metadata.get("max_request_context_length") if isinstance(metadata, dict) else None
    return _count(entry.get("max_model_len")) or _count(told)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else 0
