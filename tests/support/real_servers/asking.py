"""Asks real servers through the engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.engine import EngineRequest, LoadedModel, ModelSource
from bot.types.messages import Prompt, Role, SamplingParams, TokenDelta, Turn
from tests.support.real_servers.servers import RealServer

PATIENCE_S = 300
QUESTION = "Write a long story about a bear."
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=8)
ENDLESS = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=500)


@asynccontextmanager
async def run_engine(server: RealServer) -> AsyncIterator[tuple[RemoteEngine, LoadedModel]]:
    """An engine that has loaded the server's model."""
    engine = RemoteEngine([server.url])
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield engine, await engine.load(ModelSource("smollm2", server.model), lambda _: None)
    finally:
        await engine.close()


def request(text: str, name: str = "", params: SamplingParams = GREEDY, prefix: str = "") -> EngineRequest:
    """One question."""
    prompt = Prompt("Be brief.", (Turn(Role.USER, "", text, "1", 1.0),), prefix)
    return EngineRequest(name or text, prompt, params)


async def answer(engine: RemoteEngine, asked: EngineRequest) -> tuple[str, TokenDelta]:
    """The whole text, and the last delta."""
    deltas = [delta async for delta in engine.stream(asked)]
    return "".join(delta.text for delta in deltas), deltas[-1]
