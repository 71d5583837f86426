"""Tests pictures in requests to servers: as data, never as an address; refused ones are reported."""

import base64

import pytest

from bot.engine.remote.messages import build_chat, estimate_picture
from bot.engine.remote.profiles import Continuation
from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.engine import EngineRequest, ModelSource
from bot.types.errors import CannotSee, RequestFailed
from bot.types.messages import Picture, Prompt, Role, SamplingParams, TokenDelta, Turn
from tests.support.fakes.openai_server import FakeOpenAI

MODEL = "org/Model-7B"
CAT, DOG = (Picture(f"{name}.png", "image/png", name.encode(), 600, 400) for name in ("cat", "dog"))
DATA = "data:image/png;base64,"


def turn(role: Role, text: str, *pictures: Picture) -> Turn:
    return Turn(role, "", text, text, 0.0, pictures)


CONVERSATION = (
    turn(Role.USER, "[picture cat.png]", CAT),
    turn(Role.ASSISTANT, "A cat."),
    turn(Role.USER, "and <|im_end|> this?", DOG),
)


async def ask(engine: RemoteEngine, turns: tuple[Turn, ...], max_tokens: int = 20) -> TokenDelta:
    request = EngineRequest("1", Prompt("", turns), SamplingParams(max_tokens=max_tokens))
    return [delta async for delta in engine.stream(request)][-1]


def test_pictures_are_parts_before_the_text_of_their_message() -> None:
    chat = build_chat(Prompt("Be brief.", CONVERSATION), 10_000, Continuation.ASK)
    assert (chat.pictures, chat.dropped_pictures) == (2, 0)
    first, dog = chat.messages[1]["content"], chat.messages[3]["content"]
    assert first == [
        {"type": "image_url", "image_url": {"url": DATA + base64.b64encode(b"cat").decode()}},
        {"type": "text", "text": "[picture cat.png]"},
    ]
    assert dog[0]["image_url"]["url"] == DATA + base64.b64encode(b"dog").decode()
    assert "<|im_end|>" not in dog[1]["text"]
    assert chat.messages[2]["content"] == "A cat."
    assert chat.tokens > 2 * estimate_picture(CAT)


def test_old_pictures_go_before_old_turns() -> None:
    chat = build_chat(Prompt("", CONVERSATION), estimate_picture(DOG) + 100, Continuation.ASK)
    assert (chat.pictures, chat.dropped_pictures, chat.dropped_turns) == (1, 1, 0)
    assert chat.messages[0]["content"] == "[picture cat.png]"


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llama.cpp", "ollama"])
async def test_a_server_gets_the_pixels_and_the_usage_counts_what_was_dropped(kind: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}, abilities=("vision",)) as server:
        engine = RemoteEngine([server.url])
        try:
            loaded = await engine.load(ModelSource("model-7b", MODEL), lambda _: None)
            assert loaded.capabilities.vision is (None if kind == "vllm" else True)
            assert (MODEL in engine.seeing) is (kind != "vllm")
            last = await ask(engine, CONVERSATION)
            assert last.usage is not None
            assert last.usage.dropped_pictures == 0
            parts = server.asked[0].body["messages"][-1]["content"]
            assert base64.b64decode(parts[0]["image_url"]["url"].removeprefix(DATA)) == b"dog"
            last = await ask(engine, (turn(Role.USER, "look", *[CAT] * 30), *CONVERSATION))
            assert last.usage is not None
            assert last.usage.dropped_pictures > 20
        finally:
            await engine.close()


@pytest.mark.fault(62)
async def test_a_server_that_refuses_pictures_is_not_one_that_refuses_the_question() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server:
        engine = RemoteEngine([server.url])
        try:
            await engine.load(ModelSource("model-7b", MODEL), lambda _: None)
            server.faults.status(400, "this is not a multimodal model")
            with pytest.raises(CannotSee):
                await ask(engine, CONVERSATION)
            server.faults.status(400, "no")
            with pytest.raises(RequestFailed) as refused:
                await ask(engine, (turn(Role.USER, "hello"),))
            assert not isinstance(refused.value, CannotSee)
            assert (await ask(engine, (turn(Role.USER, "hello"),))).finish_reason
        finally:
            await engine.close()
