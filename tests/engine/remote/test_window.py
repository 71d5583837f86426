"""Tests how the window of a server is found out, and how a history is cut to it by the server's own count of tokens."""

import asyncio

import pytest

from bot.types.errors import RequestFailed
from tests.support.builders.remote_engines import MODEL, answer, request, run_engine
from tests.support.fakes.openai.desktop_servers import Ollama
from tests.support.fakes.openai_server import FakeOpenAI

SHORT_WORDS = ["a b c d e f g h i j " * 6] * 20
"""Turns with more tokens than their length lets expect."""


@pytest.mark.parametrize(("kind", "asked"), [("vllm", 1), ("llama.cpp", 1), ("sglang", 2)])
async def test_near_the_window_the_server_counts_the_tokens_if_it_can(kind: str, asked: int) -> None:
    async with FakeOpenAI(kind, {MODEL: 800}) as server, run_engine(server) as engine:
        text, last = await answer(engine, request("and now?", *SHORT_WORDS))
        assert text == "You said: and now?"
        assert len(server.asked) == asked
        assert last.usage is not None
        assert last.usage.dropped_turns > 0


@pytest.mark.parametrize("kind", ["vllm", "ray", "sglang", "llama.cpp"])
async def test_the_window_is_the_servers(kind: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 3000}) as server, run_engine(server) as engine:
        _, last = await answer(engine, request("hello"))
        assert last.usage is not None
        assert last.usage.context_window == 3000


async def test_far_from_the_window_nothing_is_counted() -> None:
    async with FakeOpenAI("vllm", {MODEL: 8192}) as server, run_engine(server) as engine:
        await answer(engine, request("and now?", *SHORT_WORDS))
        assert "/tokenize" not in {call.path for call in server.calls}


async def test_a_count_that_fails_is_done_without() -> None:
    async with FakeOpenAI("vllm", {MODEL: 800}) as server, run_engine(server) as engine:
        server.faults.status(500, path="/tokenize", times=9)
        text, _ = await answer(engine, request("and now?", *SHORT_WORDS))
        assert text == "You said: and now?"


async def test_the_window_of_ollama_is_what_it_allocated_or_what_the_model_file_sets() -> None:
    async with FakeOpenAI("ollama", {MODEL: 2048}) as server:
        assert isinstance(server.kind, Ollama)
        server.kind.num_ctx = 8192
        async with run_engine(server) as engine:
            assert engine.pool.servers[0].models[MODEL] == 8192
            await answer(engine, request("hello"))
            await engine.pool.servers[0].probe()
            assert engine.pool.servers[0].models[MODEL] == 2048
            _, last = await answer(engine, request("and now?"))
            assert last.usage is not None
            assert last.usage.context_window == 2048


async def test_a_window_stays_known_while_the_server_is_asked_again() -> None:
    async with FakeOpenAI("ollama", {MODEL: 2048}) as fake:
        assert isinstance(fake.kind, Ollama)
        fake.kind.num_ctx = 8192
        async with run_engine(fake) as engine:
            (server,) = engine.pool.servers
            asked = len(fake.calls)
            fault = fake.faults.hang(path="/api/ps", word=None)
            asking = asyncio.create_task(server.probe())
            await fake.until(lambda: "/api/ps" in {call.path for call in fake.calls[asked:]})
            assert server.models[MODEL] == 8192
            fault.release()
            await asking


async def test_a_server_that_is_too_busy_to_tell_its_window_keeps_the_one_that_it_told() -> None:
    async with FakeOpenAI("llama.cpp", {MODEL: 1024}, slots=3) as fake, run_engine(fake) as engine:
        (server,) = engine.pool.servers
        fake.faults.status(503, path="/props")
        await server.probe()
        assert (server.problem, server.models[MODEL], server.most_at_once) == ("", 1024, 3)


async def test_the_oldest_turns_are_left_out_where_the_window_is_small() -> None:
    async with FakeOpenAI("vllm", {MODEL: 400}) as server, run_engine(server) as engine:
        earlier = [f"turn {number} " + "word " * 60 for number in range(20)]
        _, last = await answer(engine, request("and now?", *earlier, system="Be brief."))
        messages = server.asked[0].body["messages"]
        assert messages[0]["content"] == "Be brief."
        assert messages[-1]["content"] == "and now?"
        assert last.usage is not None
        assert last.usage.dropped_turns == 20 - (len(messages) - 2)


async def test_what_is_too_long_after_all_is_cut_more_once_and_then_refused_with_a_sentence() -> None:
    earlier = [f"turn {number} " + "word " * 60 for number in range(20)]
    async with FakeOpenAI("vllm", {MODEL: 2000}) as server, run_engine(server) as engine:
        server.faults.too_long(times=1)
        text, _ = await answer(engine, request("and now?", *earlier))
        assert text == "You said: and now?"
        first, second = (len(asked.body["messages"]) for asked in server.asked)
        assert second < first
        server.faults.too_long(times=2)
        with pytest.raises(RequestFailed, match="more than the model's context window"):
            await answer(engine, request("and now?", *earlier, request_id="again"))
