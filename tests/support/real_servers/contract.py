"""What the engine must do over every real server, as a class whose tests get a `server` fixture from a subclass."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.engine import EngineRequest, LoadedModel, ModelSource
from bot.types.messages import FinishReason, Prompt, Role, SamplingParams, TokenDelta, Turn
from tests.support.real_servers.servers import RealServer

PATIENCE_S = 300
QUESTION = "Write a long story about a bear."
COLOURS = ["red", "green", "blue", "black", "white"]
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


class ServerContract:
    """Tests of the engine over a server."""

    async def test_an_answer_ends_at_its_limit_and_is_counted(self, server: RealServer) -> None:
        async with run_engine(server) as (engine, loaded):
            text, last = await answer(engine, request(QUESTION))
            assert loaded.dtype == server.title
            assert text.strip()
            assert last.finish_reason is FinishReason.LENGTH
            assert last.usage is not None
            assert last.usage.generated_tokens == GREEDY.max_tokens
            assert last.usage.prompt_tokens > len(QUESTION.split())

    async def test_a_conversation_in_any_script_has_an_answer(self, server: RealServer) -> None:
        said = ["What is µ → ∀x?", "It is 日本語.", "And 🐻 in Ελληνικά?"]
        roles = [Role.USER, Role.ASSISTANT, Role.USER]
        turns = [Turn(role, "Ana", text, text, 0.0) for role, text in zip(roles, said, strict=True)]
        async with run_engine(server) as (engine, _):
            text, last = await answer(engine, EngineRequest("r", Prompt("Be brief.", tuple(turns)), GREEDY))
            assert text
            assert "\ufffd" not in text
            assert last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)

    async def test_an_answer_goes_on_without_what_was_said(self, server: RealServer) -> None:
        prefix = "Once upon a time there was"
        async with run_engine(server) as (engine, _):
            text, _ = await answer(engine, request(QUESTION, prefix=prefix))
            assert text.strip()
            assert not text.startswith(prefix)

    async def test_an_abort_ends_the_answer(self, server: RealServer) -> None:
        async with run_engine(server) as (engine, _):
            stream = engine.stream(request(QUESTION, params=ENDLESS))
            await anext(stream)
            await engine.abort(QUESTION)
            assert [delta async for delta in stream][-1].finish_reason is FinishReason.ABORT
            assert (await engine.stats()).running == 0
            assert (await answer(engine, request("Say hello.")))[0]

    async def test_a_closed_iterator_ends_the_answer(self, server: RealServer) -> None:
        async with run_engine(server) as (engine, _):
            async with aclosing(engine.stream(request(QUESTION, params=ENDLESS))) as stream:
                await anext(stream)
            assert (await engine.stats()).running == 0

    async def test_more_requests_than_slots_all_get_their_own_answers(self, server: RealServer) -> None:
        questions = [request(f"Repeat this word: {colour}") for colour in COLOURS]
        async with run_engine(server) as (engine, _):
            alone = [await answer(engine, question) for question in questions]
            together = await asyncio.gather(*(answer(engine, question) for question in questions))
        right = [
            [colour in text.lower() for colour, (text, _) in zip(COLOURS, texts, strict=True)]
            for texts in (alone, together)
        ]
        assert right[0] == right[1]
        assert sum(right[0]) >= len(COLOURS) / 2
