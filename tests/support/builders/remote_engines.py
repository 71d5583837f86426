"""Builds engines on fake servers, and requests to them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.engine import EngineRequest, LoadedModel, LoadProgress, ModelSource
from bot.types.messages import Prompt, Role, SamplingParams, TokenDelta, Turn
from tests.support.fakes.openai_server import FakeOpenAI

MODEL = "org/Model-7B"
KINDS = ["vllm", "ray", "sglang", "llama.cpp", "ollama", "transformers"]
PARAMS = SamplingParams(temperature=0.3, top_p=0.9, repetition_penalty=1.2, max_tokens=50)


@asynccontextmanager
async def run_engine(*servers: FakeOpenAI, key: str = "") -> AsyncIterator[RemoteEngine]:
    """An engine that has loaded MODEL from these servers."""
    engine = RemoteEngine([server.url for server in servers], key)
    try:
        await load(engine)
        yield engine
    finally:
        await engine.close()


async def load(engine: RemoteEngine, progress: Callable[[LoadProgress], None] = lambda _: None) -> LoadedModel:
    async with asyncio.timeout(20):
        return await engine.load(ModelSource("model-7b", MODEL), progress)


def request(
    question: str, *earlier: str, system: str = "", prefix: str = "", params: SamplingParams = PARAMS, **more: str
) -> EngineRequest:
    """A request in a conversation of alternating turns."""
    roles = [Role.USER if number % 2 == 0 else Role.ASSISTANT for number in range(len(earlier))] + [Role.USER]
    texts = [*earlier, question]
    turns = [Turn(role, "", text, str(n), float(n)) for n, (role, text) in enumerate(zip(roles, texts, strict=True))]
    return EngineRequest(more.pop("request_id", question), Prompt(system, tuple(turns), prefix), params, **more)


async def answer(engine: RemoteEngine, asked: EngineRequest) -> tuple[str, TokenDelta]:
    """The whole text, and the last delta."""
    async with asyncio.timeout(20):
        deltas = [delta async for delta in engine.stream(asked)]
    return "".join(delta.text for delta in deltas), deltas[-1]


@asynccontextmanager
async def two_servers() -> AsyncIterator[tuple[FakeOpenAI, FakeOpenAI]]:
    async with FakeOpenAI("vllm", {MODEL: 4096}, slots=16) as one, FakeOpenAI("vllm", {MODEL: 4096}, slots=16) as two:
        yield one, two


async def first_choice(engine: RemoteEngine, *servers: FakeOpenAI) -> FakeOpenAI:
    """The server of conversation 'c'."""
    await answer(engine, request("who?", conversation="c"))
    chosen = [server for server in servers if "who?" in server.questions()]
    return chosen[-1]
