"""A scripted engine that implements the Engine protocol without a model.

Answers come word by word, by question; a question without a script is echoed. Each word passes the gate
`QUESTION/NUMBER` of `passing`: a test that holds 'a question/3' stops the answer before its fourth word. It fails like
a real engine: a load is refused, hangs or kills the process; one request fails; the process dies with all requests.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace

from bot.types.engine import Capabilities, EngineRequest, EngineStats, LoadedModel, LoadProgress, ModelSource
from bot.types.errors import EngineDied, ModelError, RequestFailed
from bot.types.messages import FinishReason, TokenDelta, Usage

DEAD = "The engine's process ended; it is started again when a model is loaded."


@dataclass(slots=True)
class Script:
    """One answer. `dies_at` and `fails_at` are word numbers; `deaths` is how often it dies at most.

    `reasoning`: thoughts, in one delta before the first word. `retracted`: thoughts that come as text first.
    """

    words: list[str]
    reason: FinishReason = FinishReason.STOP
    dies_at: int | None = None
    deaths: int = 1000
    external: bool = False
    fails_at: int | None = None
    failure: str = "The prompt does not fit."
    dropped: int = 0
    reasoning: str = ""
    retracted: str = ""


@dataclass(slots=True)
class _Running:
    request: EngineRequest
    aborted: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # aborted, or the process died


class ScriptedEngine:
    """The scripted engine; belongs to one event loop."""

    def __init__(self, passing: Callable[[str], Awaitable[None]], max_running: int = 4) -> None:
        self._passing, self._max_running = passing, max_running
        self._scripts: dict[str, list[Script]] = {}
        self._running: dict[str, _Running] = {}
        self.loaded = ""  # the name of the loaded model
        self.loads: list[str] = []  # every attempted load, in order
        self.bad: dict[str, str] = {}  # models that do not load, and the error text
        self.deadly: dict[str, int] = {}  # models whose load kills the process, and how often
        self.capabilities: dict[str, Capabilities] = {}  # by model, as of its next load
        self.asked: list[tuple[str, EngineRequest]] = []  # every request, with the name of the model
        self.vision: bool | None = False  # whether the models see
        self.peak = 0  # most requests at once
        self.closed = False
        self._external = False
        self.unhealthy_reasons: asyncio.Queue[str] = asyncio.Queue()  # what `wait_until_unhealthy` returns next

    def answers(self, question: str, text: str, **how: object) -> None:
        """Scripts an answer to the next `question` with this text; the last script repeats."""
        script = Script(text.split(" "), **how)  # type: ignore[arg-type]  # the fields of Script
        self._scripts.setdefault(question, []).append(script)

    def questions(self) -> list[str]:
        """The questions in the order in which they were started."""
        return [asked.prompt.turns[-1].text for _, asked in self.asked]

    def running_now(self) -> set[str]:
        """The questions whose answers are being written."""
        return {each.request.prompt.turns[-1].text for each in self._running.values()}

    def prompt_of(self, question: str) -> EngineRequest:
        """The last request for a question."""
        return next(asked for _, asked in reversed(self.asked) if asked.prompt.turns[-1].text == question)

    def die(self, *, external: bool = False) -> None:
        """Simulates the death of the process. external: something else ended it."""
        self.loaded, self._external = "", external
        for running in self._running.values():
            running.ended.set()

    async def load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        """Loads a model; the gates are 'load NAME' and, at half of it, 'half NAME'."""
        assert not self._running, "a model is loaded while answers are being written"
        self.loads.append(source.name)
        self.loaded = ""
        progress(LoadProgress("loading", 0.0))
        await self._passing(f"load {source.name}")
        progress(LoadProgress("loading", 0.5))
        await self._passing(f"half {source.name}")
        if source.name in self.bad:
            raise ModelError(self.bad[source.name])
        if self.deadly.get(source.name, 0):
            self.deadly[source.name] -= 1
            raise EngineDied(DEAD)
        self.loaded = source.name
        loaded = LoadedModel(source.name, "cpu", "float32", 2048, True, self._max_running, 100, 50, 4096, 0.1)
        return replace(loaded, capabilities=self.capabilities.get(source.name, Capabilities(vision=self.vision)))

    async def stream(self, request: EngineRequest) -> AsyncGenerator[TokenDelta, None]:
        """Yields words; abort and death take effect at the next one."""
        if not self.loaded:
            raise EngineDied(DEAD)
        assert request.request_id not in self._running, "a request runs twice at once"
        running = self._running[request.request_id] = _Running(request)
        self.asked.append((self.loaded, request))
        self.peak = max(self.peak, len(self._running))
        try:
            question = request.prompt.turns[-1].text
            script = self._script(question, request)
            count = 0
            if script.reasoning:
                yield TokenDelta(request.request_id, "", reasoning=script.reasoning)
                await self._step(f"{question}/thought", running)
            if script.retracted:
                yield TokenDelta(request.request_id, script.retracted)
                await self._step(f"{question}/retracted", running)
            for number, word in enumerate(script.words[: request.params.max_tokens]):
                await self._step(f"{question}/{number}", running)
                if running.aborted:
                    yield self._last(request, FinishReason.ABORT, number, script)
                    return
                self._misbehave(script, number)
                retracts = bool(script.retracted) and number == 0
                yield TokenDelta(request.request_id, word if number == 0 else f" {word}", retracts=retracts)
                count = number + 1
            short = count < len(script.words)
            yield self._last(request, FinishReason.LENGTH if short else script.reason, count, script)
        finally:
            del self._running[request.request_id]

    async def abort(self, request_id: str) -> None:
        """Ends a request at the next word."""
        running = self._running.get(request_id)
        if running is not None:
            running.aborted = True
            running.ended.set()

    async def stats(self) -> EngineStats:
        """Fixed numbers."""
        if not self.loaded:
            raise EngineDied("The engine is not running; it starts when a model is loaded.")
        return EngineStats(self.loaded, len(self._running), 21.5, 60, 80, 512, 0, 0)

    async def wait_until_unhealthy(self) -> str:
        """The next value that a test put into `unhealthy_reasons`."""
        return await self.unhealthy_reasons.get()

    async def close(self) -> None:
        """Ends the engine."""
        self.closed = True
        self.die()

    def _script(self, question: str, request: EngineRequest) -> Script:
        scripts = self._scripts.get(question)
        if scripts is None:
            more = "and more of it" if request.prompt.prefix else f"You said: {question}"
            return Script(more.split(" "))
        return scripts.pop(0) if len(scripts) > 1 else scripts[0]

    async def _step(self, point: str, running: _Running) -> None:
        """Waits at a gate, unless the request is aborted or the process dies."""
        passing = asyncio.ensure_future(self._passing(point))
        ended = asyncio.ensure_future(running.ended.wait())
        try:
            await asyncio.wait([passing, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            passing.cancel()
            ended.cancel()
        if not self.loaded:
            raise EngineDied(DEAD, self._external)

    def _misbehave(self, script: Script, number: int) -> None:
        if number == script.fails_at:
            raise RequestFailed(script.failure)
        if number == script.dies_at and script.deaths:
            script.deaths -= 1
            self.die(external=script.external)
            raise EngineDied(DEAD, self._external)

    def _last(self, request: EngineRequest, reason: FinishReason, count: int, script: Script) -> TokenDelta:
        prompt = sum(len(turn.text.split()) for turn in request.prompt.turns)
        usage = Usage(prompt, prompt // 2, count, 0.1, 0.2, 0.3, 2048, script.dropped)
        return TokenDelta(request.request_id, "", reason, usage)
