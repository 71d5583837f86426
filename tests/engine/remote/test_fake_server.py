"""Tests the fake OpenAI-compatible server over plain HTTP."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from tests.support.builders.openai_client import MODEL, Json, answer, body, chunks, lines, reason, text
from tests.support.fakes.openai_server import KINDS, FakeOpenAI


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_has_words_a_reason_and_usage_in_each_servers_form(
    http: aiohttp.ClientSession, kind: str
) -> None:
    async with FakeOpenAI(kind, {MODEL: 100}) as server:
        server.answers("hello", "Hello to you.", reasoning="They greet.")
        found = await lines(http, server, body("hello", stream_options={"include_usage": True}))
        assert text(found) == "Hello to you."
        assert text(found, "reasoning" if kind in ("vllm", "ray", "ollama") else "reasoning_content") == "They greet."
        assert reason(found) == "stop"
        assert (found[-1] == "data: [DONE]") is (kind != "transformers")
        usage = chunks(found)[-1]["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (1, 5, 6)
        assert ("prompt_tokens_details" in usage) is (kind in ("vllm", "ray", "sglang", "llama.cpp"))
        assert ("timings" in chunks(found)[-1]) is (kind == "llama.cpp")
        assert (":" in found) is (kind == "llama.cpp")
        assert bool(chunks(found)[-1]["choices"]) is (kind == "transformers")
        plain = await lines(http, server, body("hello", max_tokens=3))
        assert (text(plain), reason(plain)) == ("Hello", "length")
        assert ("usage" in chunks(plain)[-1]) is (kind == "transformers")
        assert text(await lines(http, server, body("new"))) == "You said: new"
        assert server.questions() == ["hello", "hello", "new"]
        assert not server.aborted


@pytest.mark.parametrize(
    ("kind", "owner", "window"),
    [
        ("vllm", "vllm", 100),
        ("ray", "organization-owner", None),
        ("sglang", "sglang", 100),
        ("llama.cpp", "llamacpp", None),
        ("ollama", "org", None),
        ("transformers", "org", None),
    ],
)
async def test_each_server_lists_its_models_in_its_form(
    http: aiohttp.ClientSession, kind: str, owner: str, window: int | None
) -> None:
    async with FakeOpenAI(kind, {MODEL: 100}) as server:
        _, listed = await answer(http, server, "/v1/models")
        [model] = listed["data"]
        assert (model["id"], model["owned_by"], model.get("max_model_len")) == (MODEL, owner, window)


async def test_the_probes_tell_the_servers_apart(http: aiohttp.ClientSession) -> None:
    probes = ["/version", "/props", "/slots", "/api/version", "/get_model_info", "/get_server_info", "/health"]
    found = {}
    for kind in KINDS:
        async with FakeOpenAI(kind, {MODEL: 100}) as server:
            found[kind] = [path for path in probes if (await answer(http, server, path))[0] == 200]
    assert found == {
        "vllm": ["/version", "/health"],
        "ray": [],
        "sglang": ["/get_model_info", "/get_server_info", "/health"],
        "llama.cpp": ["/props", "/slots", "/health"],
        "ollama": ["/api/version"],
        "transformers": ["/health"],
    }


async def test_windows_and_tokens_are_found_where_each_server_has_them(http: aiohttp.ClientSession) -> None:
    async with FakeOpenAI("llama.cpp", {MODEL: 100}) as server:
        assert (await answer(http, server, "/props"))[1]["default_generation_settings"]["n_ctx"] == 100
        assert len((await answer(http, server, "/tokenize", json={"content": "a b a"}))[1]["tokens"]) == 3
    async with FakeOpenAI("vllm", {MODEL: 100}) as server:
        _, counted = await answer(http, server, "/tokenize", json={"model": MODEL, "prompt": "a b a"})
        assert (counted["count"], counted["max_model_len"]) == (3, 100)
        assert counted["tokens"][0] == counted["tokens"][2] != counted["tokens"][1]
    async with FakeOpenAI("ollama", {MODEL: 100}) as server:
        assert (await answer(http, server, "/api/ps"))[1] == {"models": []}
        await lines(http, server, body("hello"))
        assert (await answer(http, server, "/api/ps"))[1]["models"][0]["context_length"] == 100
        _, shown = await answer(http, server, "/api/show", json={"model": MODEL})
        assert shown["model_info"]["llama.context_length"] > 100


@pytest.mark.parametrize(
    ("kind", "status", "where"),
    [
        ("vllm", 404, ("error", "type", "NotFoundError")),
        ("ollama", 404, ("error", "type", "not_found_error")),
        ("transformers", 400, ("detail", "", "")),
        ("sglang", 200, ()),
        ("llama.cpp", 200, ()),
    ],
)
async def test_a_model_that_a_server_lacks(
    http: aiohttp.ClientSession, kind: str, status: int, where: tuple[str, ...]
) -> None:
    async with FakeOpenAI(kind, {MODEL: 100}) as server:
        asked = body("hello") | {"model": "no/such"}
        found, error = await answer(http, server, "/v1/chat/completions", json=asked)
        assert found == status
        if where and where[1]:
            assert error[where[0]][where[1]] == where[2]


async def test_a_prompt_that_is_too_long_is_refused_in_each_servers_form(http: aiohttp.ClientSession) -> None:
    found: dict[str, tuple[int, Any]] = {}  # Any: JSON values
    for kind in KINDS:
        async with FakeOpenAI(kind, {MODEL: 10}) as server:
            long = body(" ".join("abcdefghijkl"))
            status, error = await answer(http, server, "/v1/chat/completions", json=long)
            found[kind] = (status, error if status == 400 else None)
            by_answer = await answer(http, server, "/v1/chat/completions", json=body("a b c", max_tokens=8))
            assert (by_answer[0] == 400) is (kind in ("vllm", "ray", "sglang")), kind
    assert found["ollama"] == found["transformers"] == (200, None)
    assert found["vllm"][1]["error"]["param"] == "input_tokens"
    assert "12 input tokens" in found["vllm"][1]["error"]["message"]
    assert found["sglang"][1]["message"].startswith("The input (12 tokens) is longer")
    assert found["llama.cpp"][1]["error"]["type"] == "exceed_context_size_error"
    assert (found["llama.cpp"][1]["error"]["n_prompt_tokens"], found["llama.cpp"][1]["error"]["n_ctx"]) == (12, 10)


async def test_unknown_fields_are_refused_by_transformers_only(http: aiohttp.ClientSession) -> None:
    for kind in KINDS:
        async with FakeOpenAI(kind, {MODEL: 100}) as server:
            status, error = await answer(http, server, "/v1/chat/completions", json=body("hello", top_k=5))
            assert status == (422 if kind == "transformers" else 200)
            assert kind != "transformers" or error == {"detail": "Unexpected fields in the request: {'top_k'}"}


async def test_a_key_is_needed_where_each_server_asks_for_it(http: aiohttp.ClientSession) -> None:
    found = {}
    for kind in KINDS:
        async with FakeOpenAI(kind, {MODEL: 100}, key="secret") as server:
            paths = ["/v1/models", "/health", "/v1/chat/completions"]
            found[kind] = [(await answer(http, server, path))[0] for path in paths]
            good = {"Authorization": "Bearer secret"}
            status, _ = await answer(http, server, "/v1/chat/completions", json=body("hello"), headers=good)
            assert (status, server.request_for("hello").key) == (200, "secret")
    assert found == {
        "vllm": [401, 200, 401],
        "ray": [401, 404, 401],
        "sglang": [401, 200, 401],
        "llama.cpp": [401, 200, 401],
        "ollama": [401, 401, 401],
        "transformers": [401, 401, 401],
    }


async def test_an_answer_that_was_begun_is_continued(http: aiohttp.ClientSession) -> None:
    begun = {"role": "assistant", "content": "one two"}
    found = {}
    for kind in ("vllm", "sglang", "llama.cpp", "ollama"):
        async with FakeOpenAI(kind, {MODEL: 100}) as server:
            server.answers("count", "one two three.")
            asked = body("count", continue_final_message=True, add_generation_prompt=False)
            asked["messages"].append(begun)
            found[kind] = text(await lines(http, server, asked))
    assert found == {
        "vllm": " three.",
        "sglang": " three.",
        "llama.cpp": "one two three.",
        "ollama": "one two three.",
    }


@pytest.mark.parametrize(
    ("kind", "running", "waiting"),
    [
        ("vllm", "vllm:num_requests_running", "vllm:num_requests_waiting"),
        ("sglang", "sglang:num_running_reqs", "sglang:num_queue_reqs"),
        ("llama.cpp", "llamacpp:requests_processing", "llamacpp:requests_deferred"),
    ],
)
async def test_gauges_show_what_runs_and_what_waits(
    http: aiohttp.ClientSession, kind: str, running: str, waiting: str
) -> None:
    async with FakeOpenAI(kind, {MODEL: 100}, slots=1) as server:
        server.gates.hold("first/1")
        first = asyncio.ensure_future(lines(http, server, body("first")))
        await server.gates.reached("first/1")
        second = asyncio.ensure_future(lines(http, server, body("second")))
        await server.until(lambda: server.waiting_now() == ["second"])
        _, shown = await answer(http, server, "/metrics")
        samples = [line.split() for line in shown.splitlines() if not line.startswith("#")]
        values = {name.partition("{")[0]: float(value) for name, value in samples}
        assert (values[running], values[waiting]) == (1, 1)
        await server.gates.open("first/1")
        assert (text(await first), text(await second)) == ("You said: first", "You said: second")
        assert server.peak == 1


@pytest.mark.parametrize("held", ["gate", "hang", "no status line", "queue"])
async def test_an_abort_is_noticed_at_once(http: aiohttp.ClientSession, held: str) -> None:
    async with FakeOpenAI("llama.cpp", {MODEL: 100}, slots=1) as server:
        server.gates.hold("other/0")
        if held == "gate":
            server.gates.hold("hello/1")
        elif held == "queue":
            other = asyncio.ensure_future(lines(http, server, body("other")))
            await server.until(lambda: server.running_now() == ["other"])
        else:
            server.faults.hang(word=1 if held == "hang" else None, question="hello", times=3)
        # the shortest of three times: another process may have the processor
        assert min([await _abort_s(http, server, times) for times in (1, 2, 3)]) < 0.05
        assert [asked.question for asked in server.aborted] == ["hello"] * 3
        if held == "queue":
            await server.gates.open("other/0")
            await other
        _, slots = await answer(http, server, "/slots")
        assert [slot["is_processing"] for slot in slots] == [False]


async def _abort_s(http: aiohttp.ClientSession, server: FakeOpenAI, times: int) -> float:
    """Asks and closes; returns after how many seconds the server has recorded it as its abort number `times`."""
    asking = asyncio.ensure_future(lines(http, server, body("hello")))
    await server.until(lambda: "hello" in server.running_now() + server.waiting_now())
    began = time.perf_counter()
    asking.cancel()
    await server.until(lambda: len(server.aborted) == times)
    return time.perf_counter() - began


async def test_a_prefix_cache_is_kept_by_salt(http: aiohttp.ClientSession) -> None:
    async with FakeOpenAI("vllm", {MODEL: 100}) as server:
        cached = []
        for question, salt in (("a b c", "x"), ("a b d", "x"), ("a b d", "y")):
            asked = body(question, cache_salt=salt, stream_options={"include_usage": True})
            usage = chunks(await lines(http, server, asked))[-1]["usage"]
            cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        assert cached == [0, 2, 0]


async def test_reasoning_is_switched_off_in_each_servers_way(http: aiohttp.ClientSession) -> None:
    off: Json = {"chat_template_kwargs": {"enable_thinking": False}}
    for kind in KINDS:
        async with FakeOpenAI(kind, {MODEL: 100}, reasoning_field="thought") as server:
            server.answers("hello", "Hello.", reasoning="They greet.")
            asked = body("hello", **({"reasoning_effort": "none"} if kind == "ollama" else off))
            assert text(await lines(http, server, body("hello")), "thought") == "They greet."
            assert text(await lines(http, server, asked), "thought") == ""


@pytest.mark.parametrize("kind", KINDS)
async def test_the_status_line_comes_as_early_as_each_server_sends_it(http: aiohttp.ClientSession, kind: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 100}) as server:
        server.gates.hold("hello/0")
        opening = asyncio.ensure_future(http.post(f"{server.url}/chat/completions", json=body("hello")))
        await server.gates.reached("hello/0")
        if kind in ("vllm", "ray", "transformers"):
            await opening
        else:
            await asyncio.wait([opening], timeout=0.05)
            assert not opening.done()
        await server.gates.open("hello/0")
        async with await opening as response:
            assert "You" in await response.text()


async def test_an_answer_without_a_stream(http: aiohttp.ClientSession) -> None:
    async with FakeOpenAI("vllm", {MODEL: 100}) as server:
        _, found = await answer(http, server, "/v1/chat/completions", json=body("hello", stream=False))
        assert found["choices"][0]["message"]["content"] == "You said: hello"
        assert found["usage"]["completion_tokens"] == 3
