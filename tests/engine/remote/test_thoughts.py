"""Tests thoughts from servers: those that they name, those in the text, what they cost, and how much is asked for."""

import asyncio
from dataclasses import replace

import pytest

from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.errors import RequestFailed
from bot.types.messages import FinishReason
from tests.support.builders.remote_engines import KINDS, MODEL, PARAMS, load, request, run_engine
from tests.support.fakes.openai_server import FakeOpenAI


async def split_answer(engine: RemoteEngine, question: str, **params: object) -> tuple[str, str, FinishReason | None]:
    """The text and the thoughts as a reader of the deltas has them at the end, and why it ended."""
    text = thoughts = ""
    async with asyncio.timeout(20):
        async for delta in engine.stream(request(question, params=replace(PARAMS, **params))):  # type: ignore[arg-type]
            if delta.retracts:
                text, thoughts = "", thoughts + text
            text, thoughts, reason = text + delta.text, thoughts + delta.reasoning, delta.finish_reason
    return text, thoughts, reason


@pytest.mark.parametrize("kind", KINDS)
async def test_a_block_in_the_text_is_thoughts(kind: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}) as server, run_engine(server) as engine:
        server.answers("hello", "<think> They greet me. </think> Hi there.")
        text, thoughts, reason = await split_answer(engine, "hello")
        assert (text.strip(), thoughts.strip(), reason) == ("Hi there.", "They greet me.", FinishReason.STOP)


async def test_a_text_that_speaks_of_a_tag_is_text() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.answers("tags?", "Use `<think>` and </think> there.")
        assert (await split_answer(engine, "tags?"))[:2] == ("Use `<think>` and </think> there.", "")


async def test_thoughts_that_the_prompt_began_are_taken_back() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.answers("hello", "They greet me.\n</think>\n\nHi there.")
        text, thoughts, _ = await split_answer(engine, "hello")
        assert (text.strip(), thoughts.strip()) == ("Hi there.", "They greet me.")
        server.answers("again", "Again.\n</think>\n\nHi.")
        async with asyncio.timeout(20):
            deltas = [delta async for delta in engine.stream(request("again"))]
        assert not any(delta.retracts for delta in deltas), "now it is known how the model begins"
        assert "".join(delta.text for delta in deltas).strip() == "Hi."
        server.answers("plain", "No thoughts here.")
        assert (await split_answer(engine, "plain"))[0] == "No thoughts here."
        assert (await split_answer(engine, "plain", think="off"))[:2] == ("No thoughts here.", "")


async def test_a_server_that_separates_thoughts_is_believed() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.answers("hello", "<think> is a tag.", reasoning="They ask.")
        assert (await split_answer(engine, "hello"))[:2] == ("<think> is a tag.", "They ask.")


async def test_thoughts_have_a_budget_besides_the_answer() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.answers("long", "word " * 30, reasoning="hm " * 20)
        text, _, reason = await split_answer(engine, "long", max_tokens=10, think_tokens=25, think="high")
        assert server.asked[-1].body["max_tokens"] == 35
        assert (len(text.split()), reason) == (10, FinishReason.LENGTH)
        server.answers("exact", "word " * 9 + "word")
        text, _, reason = await split_answer(engine, "exact", max_tokens=10, think_tokens=25)
        assert (len(text.split()), reason) == (10, FinishReason.STOP)


async def test_only_a_model_that_thinks_gets_tokens_for_thoughts() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        await split_answer(engine, "hello", max_tokens=10, think_tokens=25)
        assert server.asked[-1].body["max_tokens"] == 10
        server.answers("hard", "Yes.", reasoning="Hm.")
        await split_answer(engine, "hard", max_tokens=10, think_tokens=25)
        await split_answer(engine, "hello", max_tokens=10, think_tokens=25)
        assert server.asked[-1].body["max_tokens"] == 35


@pytest.mark.parametrize("kind", KINDS)
async def test_how_much_it_thinks_is_asked_in_the_servers_words(kind: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}) as server, run_engine(server) as engine:
        fields = {}
        for think in ("", "off", "low", "high"):
            await split_answer(engine, "hello", think=think)
            body = server.asked[-1].body
            fields[think] = (body.get("chat_template_kwargs"), body.get("reasoning_effort"))
        expected: dict[str, object] = {
            "ollama": {"": (None, None), "off": (None, "none"), "low": (None, "low"), "high": (None, "high")},
            "transformers": dict.fromkeys(("", "off", "low", "high"), (None, None)),
        }
        switch = {"enable_thinking": True, "thinking": True}
        assert fields == expected.get(
            kind,
            {
                "": (None, None),
                "off": ({"enable_thinking": False, "thinking": False}, None),
                "low": ({**switch, "reasoning_effort": "low"}, "low"),
                "high": ({**switch, "reasoning_effort": "high"}, "high"),
            },
        )


UNKNOWN_EFFORT = "Unexpected reasoning effort high. Supported types are xhigh (default), medium, and low."


@pytest.mark.parametrize(("kind", "status"), [("vllm", 400), ("llama.cpp", 500)])
async def test_a_model_that_has_another_word_for_high_is_asked_with_it(kind: str, status: int) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}) as server, run_engine(server) as engine:
        server.faults.status(status, message=UNKNOWN_EFFORT, question="hello")
        server.answers("hello", "Hi there.")
        for _ in range(2):
            assert (await split_answer(engine, "hello", think="high"))[0] == "Hi there."
        words = [asked.body["chat_template_kwargs"].get("reasoning_effort") for asked in server.asked]
        assert words == ["high", "xhigh", "xhigh"], "it is remembered"
        assert not engine.pool.servers[0].problem


async def test_a_model_that_knows_no_effort_is_asked_to_think_without_one() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.faults.status(400, message=UNKNOWN_EFFORT, question="hello", times=2)
        server.answers("hello", "Hi there.")
        assert (await split_answer(engine, "hello", think="high"))[0] == "Hi there."
        assert "reasoning_effort" not in server.asked[-1].body
        assert server.asked[-1].body["chat_template_kwargs"] == {"enable_thinking": True, "thinking": True}
        server.faults.status(400, message=UNKNOWN_EFFORT, question="again", times=9)
        with pytest.raises(RequestFailed, match="refuses this request"):
            await split_answer(engine, "again", think="off")


async def test_what_servers_take_for_think_is_known_after_the_load() -> None:
    async with FakeOpenAI("transformers", {MODEL: 4096}) as server, run_engine(server) as engine:
        assert (await load(engine)).capabilities.efforts == ()
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        assert (await load(engine)).capabilities.efforts is None
