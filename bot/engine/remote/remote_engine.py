"""Implements the Engine protocol (bot.types.engine) with servers at addresses.

`load` waits until a server that offers the model can be reached. A server that fails before the first token is
replaced by another one at once; after it, `stream` raises ServerLost, and the caller repeats the request.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

from bot.config.settings import Settings
from bot.engine.client.request_validation import check_id, check_params
from bot.engine.remote.api_client import Busy, EffortRefused, KeyRefused, Refusal, ServerFailed, TooLong
from bot.engine.remote.chat_stream import BadStream, Chunk, ReportedError, read_chunks
from bot.engine.remote.messages import Chat
from bot.engine.remote.profiles import EFFORTS, SETTABLE, Continuation
from bot.engine.remote.request_builder import MARGIN, UNKNOWN_WINDOW, RequestBuilder, window_of
from bot.engine.remote.server import Server
from bot.engine.remote.server_answer import ServerAnswer
from bot.engine.remote.server_pool import ServerPool
from bot.types.engine import (
    Capabilities,
    EngineRequest,
    EngineStats,
    LoadedModel,
    LoadProgress,
    ModelSource,
    ServerState,
)
from bot.types.errors import TOO_LONG, CannotSee, NoServer, RequestFailed, ServerLost
from bot.types.messages import FinishReason, TokenDelta

log = logging.getLogger("inhouse.engine")

FIRST_TOKEN_S = 600.0
"""Most seconds to the first token: requests may wait in the server's own queue."""
BETWEEN_TOKENS_S = 60.0
"""A stream without a chunk for so long counts as hung; chunks without text may come for FIRST_TOKEN_S."""
MOST_BUSY_S = 30.0
"""Longest wait that is granted to servers that answer 429; they may ask for less."""
MOST_FAILURES = 2
"""Failures of servers under a request, which may be the cause, before the caller counts that."""
AGAIN_S = 1.0
"""Pause before a request is repeated on a server that reported an error, if no other server takes it."""
NOTHING_USABLE = "No server of the model can be used now; the log of Inhouse says why."
SPEED_S = 10.0
"""Seconds over which the tokens per second are averaged."""
CONVERSATION_HEADER = "X-Session-Id"
"""Carries the conversation's opaque id for routers in front of several servers."""


@dataclass(slots=True)
class _Running:
    """A stream in progress. `stop`: it is to end. `timer`: the limit of the wait for the next chunk of `server`."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.Timeout | None = None
    server: Server | None = None

    def wait_no_longer(self) -> None:
        """End the wait for the next chunk."""
        if self.timer is not None and not self.timer.expired():
            self.timer.reschedule(asyncio.get_running_loop().time())


class RemoteEngine:
    """An Engine on the servers of `pool`. Belongs to one event loop; call `close` at the end.

    salts: keep the prefix caches of workspaces apart where a server can.
    """

    def __init__(self, urls: Sequence[str], key: str = "", authority: str = "", *, salts: bool = True) -> None:
        self.pool = ServerPool(urls, key, authority, on_probed=self._after_probes)
        self._requests = RequestBuilder(salts=salts)
        self._loaded: LoadedModel | None = None
        self._changed: Callable[[LoadedModel], None] = lambda _: None
        self._source: ModelSource | None = None
        self._running: dict[str, _Running] = {}
        self._thinking: set[str] = set()  # models that have sent thoughts
        self._opens_in_prompt: set[str] = set()  # models whose thoughts came as text, without their beginning
        self._tokens: deque[float] = deque(maxlen=100_000)  # times of received tokens, monotonic clock

    @classmethod
    def of(cls, settings: Settings) -> "RemoteEngine":
        """The engine of these settings."""
        key = settings.engine_key.get_secret_value() if settings.engine_key else ""
        return cls(settings.engine_urls, key, str(settings.engine_ca or ""), salts=settings.engine_salts)

    @property
    def offered(self) -> tuple[str, ...]:
        """Ids of the models that reachable servers offer, sorted."""
        return self.pool.offered

    @property
    def states(self) -> tuple[ServerState, ...]:
        """The state of each server, in the order of the settings."""
        return self.pool.states

    def on_change(self, changed: Callable[[LoadedModel], None]) -> None:
        """Have `changed` called when a server of the loaded model comes, goes or changes."""
        self._changed = changed

    @property
    def seeing(self) -> tuple[str, ...]:
        """Ids of the models that servers say can see, sorted."""
        return self.pool.seeing

    async def load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        """Wait until a server that offers the model can be reached. `source.path`: its id there.

        Raises ModelError as ServerPool.wait_for.
        """
        began = time.monotonic()
        self._source = source
        await self.pool.wait_for(source.path, progress)
        await self._requests.open(source)
        self._loaded = replace(self._described(source), load_s=time.monotonic() - began)
        lacks = [name for name in self._loaded.capabilities.lacks if name in SETTABLE]
        note = f"The server does not take {' and '.join(lacks)}; it uses its own." if lacks else ""
        self._loaded = replace(self._loaded, note=note)
        return self._loaded

    def _described(self, source: ModelSource) -> LoadedModel:
        """The model as its usable servers have it now."""
        usable = self.pool.usable
        return LoadedModel(
            name=source.name,
            device=f"{len(usable)} of {len(self.pool.servers)} servers" if len(self.pool.servers) > 1 else "its server",
            dtype=", ".join(sorted({server.profile.title for server in usable})),
            context_window=self._window(source),
            batching=True,
            max_running=sum(server.most_at_once for server in usable),
            weights_mb=0,
            kv_cache_mb=0,
            kv_cache_tokens=0,
            load_s=0.0,
            capabilities=self._capabilities(),
        )

    def _capabilities(self) -> Capabilities:
        """What the servers say, else what the template here says."""
        served, here = self.pool.capabilities, self._requests.capabilities
        passed = () if served.reasoning is False else _common_efforts(self.pool.usable)
        return replace(
            served,
            reasoning=here.reasoning if served.reasoning is None else served.reasoning,
            tools=here.tools if served.tools is None else served.tools,
            efforts=here.efforts if passed is None else passed,
        )

    async def stream(self, request: EngineRequest) -> AsyncGenerator[TokenDelta, None]:
        """Yield the deltas of one generation. Closing the iterator aborts it.

        Raises RequestFailed, ServerLost if a server failed while it worked on the request, and NoServer if none can be
        used.
        """
        check_params(request.params)
        if self._source is None:
            raise NoServer("No model is chosen yet.")
        check_id(request.request_id, self._running)
        running = self._running[request.request_id] = _Running()
        try:
            async with contextlib.aclosing(self._anywhere(request, self._source, running)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            del self._running[request.request_id]

    async def abort(self, request_id: str) -> None:
        """Close the stream of a generation; an unknown id is ignored."""
        if (running := self._running.get(request_id)) is not None:
            running.stop.set()
            running.wait_no_longer()

    async def stats(self) -> EngineStats:
        """Current statistics; memory is the servers' own. Raises NoServer if no server can be used."""
        if not self.pool.usable:
            raise NoServer(NOTHING_USABLE)
        now = time.monotonic()
        while self._tokens and self._tokens[0] < now - SPEED_S:
            self._tokens.popleft()
        name = self._source.name if self._source is not None else ""
        return EngineStats(name, len(self._running), len(self._tokens) / SPEED_S, 0, 0, 0, 0, 0)

    async def wait_until_unhealthy(self) -> str:
        """Never returns: the operators of the servers restart them."""
        await asyncio.Event().wait()
        return ""

    async def close(self) -> None:
        """Close all connections."""
        await self.pool.close()
        await self._requests.close()

    def _after_probes(self) -> None:
        """End the waits for servers that hang, and report a change of the loaded model."""
        if self._loaded is not None and self._source is not None and self.pool.usable:
            now = replace(self._described(self._source), load_s=self._loaded.load_s, note=self._loaded.note)
            if now != self._loaded:
                self._loaded = now
                self._changed(now)
        for running in self._running.values():
            if running.server is not None and running.server.hangs:
                running.wait_no_longer()

    def _window(self, source: ModelSource) -> int:
        """The smallest window of the usable servers."""
        return min((window_of(server, source) for server in self.pool.usable), default=UNKNOWN_WINDOW)

    async def _anywhere(
        self, request: EngineRequest, source: ModelSource, running: _Running
    ) -> AsyncGenerator[TokenDelta, None]:
        """Generate on one server after the other until one writes; raises as `stream`."""
        request = self._with_thoughts(request, source)
        tried: list[Server] = []
        pauses: list[float] = []
        share, rounds, began, failures = MARGIN, 0, time.monotonic(), 0
        while not running.stop.is_set():
            server = self.pool.choose(request.conversation, tried)
            if server is None and pauses and time.monotonic() - began < FIRST_TOKEN_S:
                rounds += 1
                await _wait(running.stop, min(*pauses, MOST_BUSY_S))
                tried, pauses = [], []
                continue
            if server is None and pauses:
                raise RequestFailed("The model's server has too much to do now; please ask again later.")
            if server is None:
                raise ServerLost(NOTHING_USABLE) if failures else NoServer(NOTHING_USABLE)
            written = False
            try:
                chat = await self._requests.prompt(server, request, source, share)
                async with contextlib.aclosing(self._on_server(server, request, source, chat, running)) as deltas:
                    async for delta in deltas:
                        written = written or bool(delta.text or delta.reasoning)
                        yield delta
                return
            except TooLong as error:
                if share < MARGIN:
                    log.warning("The server %s refuses a request as too long: %s", server, error)
                    raise RequestFailed(
                        f"{TOO_LONG} more than the model's context window: shorten them or lower max_tokens."
                    ) from error
                share = MARGIN / 2
            except KeyRefused as error:
                server.failed(error)
            except Refusal as error:
                log.warning("The server %s refuses a request: %s", server, error)
                if isinstance(error, EffortRefused) and self._requests.effort_refused(server, request, source):
                    continue
                if any(turn.pictures for turn in request.prompt.turns):
                    raise CannotSee("The model's server refuses pictures; the log of Inhouse says why.") from error
                raise RequestFailed("The model's server refuses this request; the log of Inhouse says why.") from error
            except Busy as error:
                log.info("The server %s is busy: %s", server, error)
                tried.append(server)
                pauses.append(error.seconds or 2.0**rounds)
                await server.probe()  # it may be loading its model instead
            except ServerFailed as error:
                server.failed(error)
                if written:
                    raise ServerLost("The model's server failed while it answered.") from error
                failures += error.computed
                if failures == MOST_FAILURES:
                    raise ServerLost("The model's servers failed under this request.") from error
                tried.append(server)
                pauses += [AGAIN_S] * error.answered
        yield TokenDelta(request.request_id, "", FinishReason.ABORT)

    def _with_thoughts(self, request: EngineRequest, source: ModelSource) -> EngineRequest:
        """Grant tokens for thoughts only if they are asked for, or the model is known to think."""
        params = request.params
        if params.think not in ("low", "high") and source.path not in self._thinking:
            params = replace(params, think_tokens=0)
        return replace(request, params=params)

    async def _on_server(
        self, server: Server, request: EngineRequest, source: ModelSource, chat: Chat, running: _Running
    ) -> AsyncGenerator[TokenDelta, None]:
        """Generate on one server. Raises ServerFailed or Refusal."""
        repeats = server.profile.continuation is Continuation.LAST_MESSAGE and not chat.ids
        repeated = chat.messages[-1]["content"] if repeats and request.prompt.prefix else ""  # as it was sent
        answer = ServerAnswer(request, chat, repeated, thoughts_begun=source.path in self._opens_in_prompt)
        refused = False
        server.running += 1
        running.server = server
        chunks = self._chunks(server, self._requests.body(server, request, source, chat), request)
        try:
            while not answer.too_long:
                chunk = await _next(chunks, running, BETWEEN_TOKENS_S if answer.begun else FIRST_TOKEN_S)
                if chunk is None:
                    break
                server.heard()
                split = answer.add(chunk)
                if chunk.text or chunk.reasoning:
                    self._tokens.append(time.monotonic())
                elif answer.silent_s > FIRST_TOKEN_S:
                    raise ServerFailed(f"it sent no text for {FIRST_TOKEN_S:.0f} s")
                if split.reasoning:
                    self._thinking.add(source.path)
                if any(split):
                    yield TokenDelta(request.request_id, split.text, reasoning=split.reasoning, retracts=split.retracts)
        except (Busy, Refusal):
            refused = True
            raise
        finally:
            server.running -= 1
            await chunks.aclose()
            if not (answer.finish or refused or server.problem):
                self.pool.watch_abort(server)
        last = answer.end(window_of(server, source), stopped=running.stop.is_set())
        server.answered()
        self._requests.measured(chat, answer.prompt_tokens)
        if answer.opened_in_prompt:
            self._opens_in_prompt.add(source.path)
        yield last

    async def _chunks(
        self, server: Server, body: dict[str, object], request: EngineRequest
    ) -> AsyncGenerator[Chunk, None]:
        """The chunks of a stream. Raises ServerFailed or Refusal."""
        headers = {CONVERSATION_HEADER: request.conversation} if request.conversation else {}
        async with server.stream(body, headers) as response:
            try:
                async for chunk in read_chunks(response.content.iter_any()):
                    yield chunk
            except BadStream as error:
                reported = isinstance(error, ReportedError)
                raise ServerFailed(server.api.clean(str(error)), answered=reported) from error


async def _next(chunks: AsyncGenerator[Chunk, None], running: _Running, seconds: float) -> Chunk | None:
    """The next chunk; None at the end of the stream or once the request is stopped. Raises ServerFailed."""
    if running.stop.is_set():
        return None
    try:
        async with asyncio.timeout(seconds) as running.timer:
            return await anext(chunks, None)
    except TimeoutError as error:
        if running.stop.is_set():
            return None
        hangs = running.server is not None and running.server.hangs
        raise ServerFailed("it hangs" if hangs else f"it sent nothing for {seconds:.0f} s") from error
    finally:
        running.timer = None


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    """Wait until `stop` is set, at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def _common_efforts(servers: Sequence[Server]) -> tuple[str, ...] | None:
    """What each server takes for /think; None if they take all of it, and only the model decides."""
    known = set.intersection(*(set(server.profile.efforts) for server in servers)) if servers else set()
    return None if known == set(EFFORTS) else tuple(effort for effort in EFFORTS if effort in known)
