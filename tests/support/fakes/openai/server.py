"""A fake OpenAI-compatible server on loopback, as one of the kinds vllm, sglang, llama.cpp, ollama, transformers.

async with FakeOpenAI("vllm", {"org/Model-7B": 4096}, key="secret") as server:
    server.answers("hello", "Hello to you.")
    server.faults.reset(word=1, question="hello")
    ...  # the code under test talks to server.url
    await server.until(lambda: server.aborted)

Its tokens are words. A question is the text of the last user message; one without a script is echoed. Each word passes
the gate `QUESTION/NUMBER`, each word of reasoning `QUESTION/reasoning/NUMBER`.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from aiohttp import hdrs, web

from tests.support.fakes.discord.clock import Changes
from tests.support.fakes.gates import Gates
from tests.support.fakes.openai.answer import Answer, Script, reset, vanish
from tests.support.fakes.openai.desktop_servers import LlamaCpp, Ollama, TransformersServe
from tests.support.fakes.openai.gpu_servers import RayServe, Sglang, Vllm
from tests.support.fakes.openai.server_kinds import Counts, Json, ServerKind, State, Tokenizer, text_of
from tests.support.fakes.openai.wire_faults import CHAT, Kind, WireFault, WireFaults

COMPLETIONS = "/v1/completions"
STREAMS = (CHAT, COMPLETIONS)
USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>"

KINDS: dict[str, type[ServerKind]] = {
    kind.name: kind for kind in (Vllm, RayServe, Sglang, LlamaCpp, Ollama, TransformersServe)
}

PAGE = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
TEXTS = {429: "Too many requests", 500: "Internal server error", 503: "Loading model"}


@dataclass(eq=False, slots=True)
class Asked:
    """One recorded request."""

    method: str
    path: str
    headers: Mapping[str, str]  # of any case
    body: Json = field(default_factory=dict)
    was_reset: bool = False  # a fault resets its connection
    prompt: str = ""  # the text of its token ids

    @property
    def question(self) -> str:
        """The text of the last user message; '' without one."""
        if self.prompt:
            return self.prompt.rpartition(USER)[2].partition(END)[0]
        said = [text_of(each) for each in self.body.get("messages", []) if each.get("role") == "user"]
        return said[-1] if said else ""

    @property
    def key(self) -> str:
        """The bearer token; '' without one."""
        return self.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ")


class FakeOpenAI:
    """`async with FakeOpenAI(kind, models) as server: ...`; several may run at once.

    models: context windows by id, tokens. key: '' for a server without one. slots: requests that run at once; the
    others wait. metrics: whether /metrics is switched on. reasoning_field: another name for the reasoning in a delta.
    tls: `Authority("127.0.0.1").server_context()` for https. port: 0 for any. pace_s: seconds before each word. echo:
    the answer to a question without a script. abilities: what it says that its models can do, of thinking, tools and
    vision. tokenizer: its tokenizer instead of words, with ChatML; vllm and llama.cpp then take token ids.
    """

    def __init__(
        self,
        kind: str = "vllm",
        models: dict[str, int] | None = None,
        *,
        key: str = "",
        slots: int = 4,
        metrics: bool = True,
        gates: Gates | None = None,
        reasoning_field: str = "",
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        pace_s: float = 0.0,
        echo: str = "You said: {question}",
        abilities: tuple[str, ...] = (),
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.kind = KINDS[kind]()
        self.kind.reasoning = reasoning_field or self.kind.reasoning
        self.key, self.loading = key, False
        self.ignores_aborts = False  # keeps working on a request whose connection was closed, as behind some proxies
        self.resets_reused = False  # resets a connection at its second request, as after a restart that it outlived
        self.gates, self.faults = gates or Gates(), WireFaults()
        self.asked: list[Asked] = []  # every chat request, in order of arrival
        self.calls: list[Asked] = []  # every request, also those that were refused
        self.aborted: list[Asked] = []  # chat requests whose connection the client closed before their end
        self.peak = 0  # most requests that ran at once
        self._state = State(
            dict(models or {"org/Model-7B": 4096}), slots, metrics, abilities=abilities, tokenizer=tokenizer
        )
        self._free = asyncio.Semaphore(slots)
        self._scripts: dict[str, list[Script]] = {}
        self._prompts: dict[str, list[list[str]]] = {}  # words of earlier prompts, by cache_salt
        self._changes = Changes(lambda: f"running {self.running_now()}, waiting {self.waiting_now()}")
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._reserved: socket.socket | None = None  # keeps the port while nothing listens
        self.clock_s = 0.0  # how far its clock is ahead
        self._used: WeakSet[asyncio.Transport] = WeakSet()  # connections that had a request
        self._open: set[Asked] = set()  # requests that are being handled
        self._ending = False
        self._tls = tls
        self.port, self._pace_s, self._echo = port, pace_s, echo

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._serve)
        app.on_response_prepare.append(self._date)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()
        self.faults.release_all()
        if self._reserved is not None:
            self._reserved.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        """The API's base, the value for INHOUSE_ENGINE_URLS."""
        return f"{self.root}/v1"

    @property
    def root(self) -> str:
        """The address without '/v1'."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    @property
    def models(self) -> dict[str, int]:
        """Context windows by model, tokens; change them in place."""
        return self._state.models

    def answers(self, question: str, text: str, **how: Any) -> None:  # Any: the fields of Script
        """Scripts an answer to the next `question`, word by word; the last script repeats."""
        self._scripts.setdefault(question, []).append(Script(text, **how))

    def questions(self) -> list[str]:
        """The questions in the order in which they arrived."""
        return [asked.question for asked in self.asked]

    def request_for(self, question: str) -> Asked:
        """The last chat request for a question."""
        return next(asked for asked in reversed(self.asked) if asked.question == question)

    def running_now(self) -> list[str]:
        """The questions whose answers are being written."""
        return list(self._state.running)

    def waiting_now(self) -> list[str]:
        """The questions that wait for a slot."""
        return list(self._state.waiting)

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:  # noqa: ASYNC109 -- reads well
        """Waits until `condition()` is true. Raises AssertionError after `timeout` seconds."""
        await self._changes.until(condition, timeout)

    async def down(self) -> None:
        """Ends like a killed process: resets all connections, refuses new ones."""
        if self._site is None or self._runner is None:
            return
        await self._site.stop()
        self._site = None
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", self.port))
        assert self._runner.server is not None
        self._ending = True  # what ends now was not aborted by the client
        for connection in self._runner.server.connections:
            reset(connection.transport)
        await self._changes.until(lambda: not self._open)
        self._ending = False

    async def up(self) -> None:
        """Listens again, on the same port; does nothing if it listens."""
        if self._site is not None:
            return
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        await self._listen()

    async def _listen(self) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls)
        await self._site.start()
        self.port = self._runner.addresses[-1][1]

    # requests

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.method, request.path, request.headers)
        self.calls.append(asked)
        if request.transport in self._used and self.resets_reused:
            await vanish(request)
        if request.transport is not None:
            self._used.add(request.transport)
        self._open.add(asked)
        try:
            return await self._respond(request, asked)
        except (asyncio.CancelledError, ConnectionError):
            if asked.path in STREAMS and not self._ending and not asked.was_reset:
                self.aborted.append(asked)
            raise
        finally:
            self._open.discard(asked)
            self._changes.tell()

    async def _date(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers[hdrs.DATE] = format_datetime(datetime.now(UTC) + timedelta(seconds=self.clock_s), usegmt=True)

    async def _respond(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        readable = await _read_body(request, asked)
        if asked.path in STREAMS:
            self.asked.append(asked)
            asked.prompt = self._decoded(asked.body.get("prompt"))
        self._changes.tell()
        fault = self.faults.find(asked.path, asked.question)
        asked.was_reset = fault is not None and fault.kind is Kind.RESET
        if fault is not None:
            faulty = await self._instead(request, fault)
            if faulty is not None:
                return faulty
        if self.loading and asked.path not in self.kind.while_loading:
            return self.kind.loading()
        if self.key and self.kind.needs_key(asked.path) and asked.key != self.key:
            return web.json_response(self.kind.unauthorized(), status=401)
        if not readable:
            return web.json_response(self.kind.error(400, "The body is no JSON object."), status=400)
        if asked.method == "POST" and (asked.path == CHAT or (asked.path == COMPLETIONS and self.kind.takes_ids)):
            return await self._chat(request, asked, fault)
        route = self.kind.routes(self._state).get((asked.method, asked.path))
        return route(asked.body) if route is not None else self.kind.no_route()

    async def _instead(self, request: web.Request, fault: WireFault) -> web.Response | None:
        """The response of a fault that replaces the server's; None for one that comes later."""
        match fault.kind:
            case Kind.STATUS:
                text = fault.message or TEXTS.get(fault.status, "An error")
                body = self.kind.error(fault.status, text)
                return web.json_response(body, status=fault.status, headers=fault.headers)
            case Kind.REDIRECT:
                return web.Response(status=fault.status, headers=fault.headers)
            case Kind.HTML:
                return web.Response(text=PAGE, status=fault.status, content_type="text/html")
            case Kind.HANG if fault.path not in STREAMS:
                await fault.released.wait()
            case Kind.RESET if fault.path not in STREAMS:
                await vanish(request)
        return None

    async def _chat(self, request: web.Request, asked: Asked, fault: WireFault | None) -> web.StreamResponse:
        body, state = asked.body, self._state
        model = str(body.get("model", ""))
        if not self.kind.takes(model, state.models):
            return self.kind.no_model(model, state.models)
        refused = self.kind.refusal(body)
        if refused is not None:
            return refused
        prompt = [word for message in body.get("messages", []) for word in text_of(message).split()]
        prompt = list(map(str, body["prompt"])) if "prompt" in body else prompt
        longest = body.get("max_completion_tokens", body.get("max_tokens"))
        window = state.models.get(model, next(iter(state.models.values())))

        async def passing(point: str) -> None:
            await self.gates.passing(f"{asked.question}/{point}")
            if self._pace_s:
                await asyncio.sleep(self._pace_s)

        forced = fault is not None and fault.kind is Kind.TOO_LONG
        too_long = self.kind.too_long(max(len(prompt), window) if forced else len(prompt), longest, window)
        if too_long is not None:
            return web.json_response(too_long, status=400)
        name = model if model in state.models else next(iter(state.models))
        script, repeated = self._continued(asked)
        cached = self._cached(asked, prompt)
        counts = Counts(min(len(prompt), window), cached if script.cached is None else script.cached, 0)
        room = max(window - counts.prompt, 1)
        most = min(longest or room, room)
        answer = Answer(self.kind, request, body, name, script, repeated, counts, most, fault, passing)
        async with self._slot(asked.question, answer.open):
            state.used[:] = [*(each for each in state.used if each != name), name]
            return await answer.respond()

    def _decoded(self, ids: object) -> str:
        tokenizer = self._state.tokenizer
        return str(tokenizer.decode(ids)) if tokenizer is not None and isinstance(ids, list) else ""

    @asynccontextmanager
    async def _slot(self, question: str, on_arrival: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Waits for one of the slots, after on_arrival(), and holds it."""
        state = self._state
        state.waiting.append(question)
        self._changes.tell()
        try:
            await on_arrival()
            await self._free.acquire()
        finally:
            state.waiting.remove(question)
        state.running.append(question)
        self.peak = max(self.peak, len(state.running))
        self._changes.tell()
        goes_on = False
        try:
            yield
        except asyncio.CancelledError:
            goes_on = self.ignores_aborts and not self._ending
            raise
        finally:
            if not goes_on:
                state.running.remove(question)
                self._free.release()

    def _cached(self, asked: Asked, prompt: list[str]) -> int:
        """The most words that a prompt shares with the beginning of an earlier one under the same cache_salt."""
        earlier = self._prompts.setdefault(str(asked.body.get("cache_salt", "")), [])
        shared = [_shared(prompt, each) for each in earlier]
        earlier.append(prompt)
        return max(shared, default=0)

    def _continued(self, asked: Asked) -> tuple[Script, str]:
        """The script of an answer, or the rest of one that the request begins; and what is repeated before it."""
        if asked.prompt:
            begun = asked.prompt.rpartition(ASSISTANT)[2]
            script, _ = self._continued_from(asked, begun)
            return script, ""
        last = asked.body["messages"][-1] if asked.body.get("messages") else {}
        goes_on = self.kind.continues == "whole" or bool(asked.body.get("continue_final_message"))
        begun = text_of(last) if goes_on and last.get("role") == "assistant" and self.kind.continues else ""
        return self._continued_from(asked, begun)

    def _continued_from(self, asked: Asked, begun: str) -> tuple[Script, str]:
        scripts = self._scripts.get(asked.question)
        if scripts is None:
            text = self._echo.format(question=asked.question, model=asked.body.get("model"))
            script = Script(" and more of it" if begun else text)
        else:
            script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        reasoning = script.reasoning if self.kind.thinks(asked.body) else ""
        rest = replace(script, text=script.text.removeprefix(begun), reasoning=reasoning)
        return rest, begun if self.kind.continues == "whole" else ""


def _shared(one: list[str], other: list[str]) -> int:
    """The length of the common beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


async def _read_body(request: web.Request, asked: Asked) -> bool:
    """Reads a JSON object into the record. Returns False if the body is none."""
    if request.method != hdrs.METH_POST:
        return True
    try:
        body = json.loads(await request.read())
    except ValueError:
        return False
    if not isinstance(body, dict):
        return False
    asked.body = body
    return True
