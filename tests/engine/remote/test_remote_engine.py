"""Tests the engine on servers: what it sends, what it makes of streams and errors, and how it chooses a server."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from bot.engine.remote import remote_engine, server_answer, server_pool
from bot.engine.remote.messages import BREAK
from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.engine import EngineRequest, LoadedModel, LoadProgress
from bot.types.errors import ModelError, NoServer, ServerLost
from bot.types.messages import FinishReason, Prompt, Role, Turn
from tests.support.builders.remote_engines import (
    KINDS,
    MODEL,
    PARAMS,
    answer,
    first_choice,
    load,
    request,
    run_engine,
    two_servers,
)
from tests.support.fakes.openai_server import FakeOpenAI


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_of_each_kind_of_server(kind: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}) as server, run_engine(server) as engine:
        text, last = await answer(engine, request("How are you?", "Hello.", "Hi.", system="Be brief."))
        assert text == "You said: How are you?"
        assert last.finish_reason is FinishReason.STOP
        assert last.usage is not None
        assert last.usage.generated_tokens == 5
        assert last.usage.prompt_tokens > 0
        body = server.asked[0].body
        assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
        assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == (MODEL, 0.3, 0.9, 50)


@pytest.mark.parametrize(
    ("kind", "penalty"),
    [("vllm", "repetition_penalty"), ("sglang", "repetition_penalty"), ("llama.cpp", "repeat_penalty")],
)
async def test_each_kind_gets_the_parameters_that_it_takes(kind: str, penalty: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}) as server, run_engine(server) as engine:
        asked = request("hello")
        await answer(engine, asked)
        body = server.asked[0].body
        assert body[penalty] == 1.2
        off = 0 if kind == "llama.cpp" else None
        assert (body.get("top_k"), body.get("min_p"), body.get("presence_penalty")) == (off, off, None)
        set_all = replace(asked.params, top_k=20, min_p=0.1, presence_penalty=1.5)
        await answer(engine, replace(asked, params=set_all))
        body = server.asked[1].body
        assert (body["top_k"], body["min_p"], body["presence_penalty"]) == (20, 0.1, 1.5)


@pytest.mark.parametrize("kind", ["ollama", "transformers"])
async def test_a_parameter_that_a_server_lacks_is_left_out_and_named_once(kind: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}) as server:
        engine = RemoteEngine([server.url])
        loaded = await load(engine)
        await answer(engine, request("hello"))
        await engine.close()
        assert "repetition_penalty" in loaded.note
        assert "repetition_penalty" not in server.asked[0].body


async def test_the_window_and_the_places_come_from_the_server() -> None:
    async with FakeOpenAI("vllm", {MODEL: 2048}) as vllm, FakeOpenAI("llama.cpp", {MODEL: 1024}, slots=3) as llama:
        for server, window, places in ((vllm, 2048, 32), (llama, 1024, 3)):
            engine = RemoteEngine([server.url])
            loaded = await load(engine)
            await engine.close()
            assert (loaded.context_window, loaded.max_running) == (window, places)


@pytest.mark.parametrize(
    ("kind", "abilities", "known"),
    [
        ("llama.cpp", ("thinking", "tools", "vision"), ("thinks", "calls tools", "sees pictures")),
        ("llama.cpp", (), ()),
        ("ollama", ("thinking", "vision"), ("thinks", "sees pictures")),
        ("ollama", ("tools",), ("calls tools",)),
        ("sglang", ("vision",), ("sees pictures",)),
        ("vllm", ("vision",), ()),
        ("transformers", ("vision",), ()),
    ],
)
async def test_what_a_model_can_do_is_what_its_server_says(
    kind: str, abilities: tuple[str, ...], known: tuple[str, ...]
) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}, abilities=abilities) as server:
        engine = RemoteEngine([server.url])
        loaded = await load(engine)
        await engine.close()
        assert loaded.capabilities.abilities == known
        assert (loaded.capabilities.vision is None) == (kind in ("vllm", "transformers"))  # they do not say


async def test_only_what_all_servers_can_do_is_counted_on() -> None:
    one = FakeOpenAI("ollama", {MODEL: 4096}, abilities=("tools", "vision"))
    two = FakeOpenAI("ollama", {MODEL: 4096}, abilities=("thinking", "tools"))
    async with one, two, run_engine(one, two) as engine:
        both = engine.pool.capabilities
        await two.down()
        await engine.pool.probe()
        assert (both.tools, both.vision, both.reasoning) == (True, False, False)
        assert engine.pool.capabilities.abilities == ("calls tools", "sees pictures")


async def test_a_server_that_returns_adds_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_pool, "PROBE_EVERY_S", 0.05)
    one, two = FakeOpenAI("llama.cpp", {MODEL: 4096}, slots=3), FakeOpenAI("vllm", {MODEL: 4096})
    async with one, two:
        await two.down()
        async with run_engine(one, two) as engine:
            seen: asyncio.Queue[LoadedModel] = asyncio.Queue()
            engine.on_change(seen.put_nowait)
            await two.up()
            async with asyncio.timeout(20):
                more = await seen.get()
                assert (more.max_running, more.device) == (3 + 32, "2 of 2 servers")
                await two.down()
                assert (await seen.get()).max_running == 3


@pytest.mark.parametrize(
    "token",
    [
        "<|im_end|>",
        "<|eot_id|>",
        "</s>",
        "[INST]",
        "[/INST]",
        "<end_of_turn>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<eos>",
    ],
)
async def test_control_tokens_in_texts_and_names_are_broken_up(token: str) -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        turns = (
            Turn(Role.USER, f"Eve{token}", f"hello {token} there", "1", 1.0),
            Turn(Role.ASSISTANT, "", f"so {token}", "2", 2.0),
            Turn(Role.USER, "Ana", "and now?", "3", 3.0),
        )
        await answer(engine, EngineRequest("r", Prompt(f"system {token}", turns), PARAMS))
        texts = [message["content"] for message in server.asked[0].body["messages"]]
        assert not [text for text in texts if token in text]
        assert "".join(texts).replace(BREAK, "").count(token) == 4


async def test_ordinary_text_is_sent_as_it_is() -> None:
    text = "if a <b and c> d: print([INSTALL], '<s3://x>', '<thinking>', a[0], x|y, '<a href>') # 1 < 2 | 3"
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        await answer(engine, request(text))
        assert server.asked[0].body["messages"][-1]["content"] == text


@pytest.mark.parametrize("kind", KINDS)
async def test_it_goes_on_with_an_answer(kind: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}) as server, run_engine(server) as engine:
        server.answers("count", "one two three four")
        text, _ = await answer(engine, request("count", prefix="one two"))
        messages = server.asked[0].body["messages"]
        if kind in ("ollama", "transformers"):
            assert "Continue your last answer" in messages[-1]["content"]
        else:
            assert text == " three four"
            assert messages[-1] == {"role": "assistant", "content": "one two"}


async def test_a_beginning_with_control_tokens_is_not_shown_again() -> None:
    async with FakeOpenAI("llama.cpp", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.answers("count", f"one <{BREAK}s> two three four")  # as the server gets it and repeats it
        text, _ = await answer(engine, request("count", prefix="one <s> two"))
        assert text == " three four"


async def test_an_abort_shows_nothing_of_the_beginning_that_a_server_repeats() -> None:
    async with FakeOpenAI("llama.cpp", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.kind.continues = ""  # it writes the script from its first word, a word a chunk
        server.answers("count", "one two three four")
        server.gates.hold("count/1")
        asking = asyncio.create_task(answer(engine, request("count", prefix="one two")))
        async with asyncio.timeout(20):
            while not (await engine.stats()).tokens_per_s:  # noqa: ASYNC110 -- until it has the first chunk
                await asyncio.sleep(0)
        await engine.abort("count")
        text, last = await asking
        assert (text, last.finish_reason) == ("", FinishReason.ABORT)


@pytest.mark.parametrize("kind", KINDS)
async def test_thoughts_come_beside_the_text(kind: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}) as server, run_engine(server) as engine:
        server.answers("hello", "Hi.", reasoning="They greet me.")
        async with asyncio.timeout(20):
            deltas = [delta async for delta in engine.stream(request("hello"))]
        assert "".join(delta.text for delta in deltas) == "Hi."
        assert "".join(delta.reasoning for delta in deltas) == "They greet me."


@pytest.mark.parametrize("kind", KINDS)
async def test_an_abort_closes_the_stream(kind: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}) as server, run_engine(server) as engine:
        server.gates.hold("hello/2")
        stream = engine.stream(request("hello"))
        async with asyncio.timeout(20):
            assert (await anext(stream)).text.strip() == "You"
            await server.gates.reached("hello/2")
            await engine.abort("hello")
            rest = [delta async for delta in stream]
        assert rest[-1].finish_reason is FinishReason.ABORT
        await server.until(lambda: server.aborted)
        assert (await engine.stats()).running == 0


async def test_an_abort_before_the_first_token() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.gates.hold("hello/0")
        asking = asyncio.create_task(answer(engine, request("hello")))
        await server.gates.reached("hello/0")
        await engine.abort("hello")
        text, last = await asking
        assert (text, last.finish_reason) == ("", FinishReason.ABORT)
        await server.until(lambda: server.aborted)


async def test_a_closed_iterator_closes_the_stream() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.gates.hold("hello/1")
        stream = engine.stream(request("hello"))
        await anext(stream)
        await stream.aclose()
        await server.until(lambda: server.aborted)


async def test_an_answer_without_end_is_ended() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.answers("hello", "word " * 3 + "x" * 1_000_000)
        text, last = await answer(engine, request("hello"))
        assert text.startswith("word word word")
        assert len(text) <= PARAMS.max_tokens * server_answer.MOST_CHARS
        assert last.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("cut", [-1, 1, 7, 40])
async def test_a_stream_may_be_cut_anywhere(cut: int) -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.answers("hello", "Grüße 日本 👋 all")
        server.faults.split(cut)
        text, _ = await answer(engine, request("hello"))
        assert text == "Grüße 日本 👋 all"


FAULTS: dict[str, Callable[[FakeOpenAI], object]] = {
    "reset": lambda server: server.faults.reset(),
    "close": lambda server: server.faults.close(),
    "bad JSON": lambda server: server.faults.bad_json(),
    "an error within the stream": lambda server: server.faults.stream_error(),
    "a long line": lambda server: server.faults.long_line(),
    "status 500": lambda server: server.faults.status(500),
    "a page": lambda server: server.faults.html(),
}


@pytest.mark.fault(60)
@pytest.mark.parametrize("fault", FAULTS)
async def test_another_server_takes_over_before_the_first_token(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.remote.chat_stream.MOST_BYTES", 100_000)
    async with two_servers() as (one, two), run_engine(one, two) as engine:
        own = await first_choice(engine, one, two)
        FAULTS[fault](own)
        text, _ = await answer(engine, request("hello", conversation="c"))
        assert text == "You said: hello"
        assert [server.questions().count("hello") for server in (one, two)] == [1, 1]


@pytest.mark.fault(60)
@pytest.mark.parametrize("fault", ["reset", "close", "bad_json", "stream_error"])
async def test_a_server_that_fails_in_the_middle_is_reported_as_lost(fault: str) -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        getattr(server.faults, fault)(word=2)
        with pytest.raises(ServerLost, match="failed while it answered"):
            await answer(engine, request("hello"))


async def test_a_server_that_fails_after_thoughts_is_reported_as_lost() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as one, FakeOpenAI("vllm", {MODEL: 4096}) as two:
        for server in (one, two):
            server.answers("hello", "Hi.", reasoning="They greet me.")
            server.faults.reset(word=0)
        async with run_engine(one, two) as engine:
            with pytest.raises(ServerLost, match="failed while it answered"):  # else thoughts of two would be joined
                await answer(engine, request("hello"))
            assert len(one.asked) + len(two.asked) == 1


async def test_a_hang_is_an_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inhouse")
    monkeypatch.setattr(remote_engine, "BETWEEN_TOKENS_S", 0.1)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.faults.hang(word=2)
        with pytest.raises(ServerLost):
            await answer(engine, request("hello"))
    assert "it sent nothing for" in caplog.text


async def test_a_busy_server_is_asked_again_after_the_time_that_it_names() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        server.faults.status(429, retry_after="1")
        text, _ = await answer(engine, request("hello"))
        assert text == "You said: hello"
        assert len(server.asked) == 2


async def test_without_any_server_the_engine_counts_as_dead_and_a_load_waits_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_pool, "PROBE_EVERY_S", 0.05)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        await server.down()
        for _ in range(5):  # until the client knows that its connections are closed; else the request may be the cause
            await asyncio.sleep(0)
        with pytest.raises(NoServer):
            await answer(engine, request("hello"))
        seen: asyncio.Queue[LoadProgress] = asyncio.Queue()
        loading = asyncio.create_task(load(engine, seen.put_nowait))
        progress = await asyncio.wait_for(seen.get(), 20)
        assert progress.message == "waiting for the model's server"
        assert progress.stage.startswith(f"127.0.0.1:{server.port}: no connection")
        await server.up()
        await loading
        assert (await answer(engine, request("hello")))[0] == "You said: hello"


async def test_a_refused_key_and_a_model_that_is_not_there_are_sentences() -> None:
    async with FakeOpenAI("vllm", {"other/model": 4096}, key="secret") as server:
        engine = RemoteEngine([server.url], "wrong")
        with pytest.raises(ModelError, match=r"it refuses the key in INHOUSE_ENGINE_KEY \(401\)"):
            await load(engine)
        await engine.close()
        engine = RemoteEngine([server.url], "secret")
        with pytest.raises(
            ModelError, match="No server offers a model called org/Model-7B; the models there are: other"
        ):
            await load(engine)
        await engine.close()


async def test_a_redirect_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inhouse")
    async with two_servers() as (server, elsewhere), run_engine(server, key="secret") as engine:
        server.faults.redirect(f"{elsewhere.url}/chat/completions")
        with pytest.raises(NoServer):
            await answer(engine, request("hello"))
        assert "it redirects to" in caplog.text
        assert not elsewhere.calls


async def test_conversations_are_named_and_workspaces_have_caches_of_their_own() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, run_engine(server) as engine:
        await answer(engine, request("hello", conversation="conversation-1", workspace="workspace-1"))
        assert server.asked[0].headers[remote_engine.CONVERSATION_HEADER] == "conversation-1"
        assert server.asked[0].body["cache_salt"] == "workspace-1"


async def test_the_models_of_all_servers_are_offered() -> None:
    one, two = FakeOpenAI("ollama", {MODEL: 4096, "a": 1}), FakeOpenAI("vllm", {MODEL: 4096, "b": 1})
    async with one, two, run_engine(one, two) as engine:
        assert engine.offered == ("a", "b", MODEL)
