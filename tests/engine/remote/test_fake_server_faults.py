"""Tests the faults of the fake OpenAI-compatible server."""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.support.builders.openai_client import MODEL, answer, body, chunks, lines, reason, text
from tests.support.fakes.openai_server import KINDS, FakeOpenAI
from tests.support.fakes.tls import Authority


async def test_faults_before_the_first_byte(http: aiohttp.ClientSession) -> None:
    async with FakeOpenAI("llama.cpp", {MODEL: 100}) as server:
        url = f"{server.url}/chat/completions"
        server.faults.status(429, retry_after="7")
        async with http.post(url, json=body("hello")) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
        server.faults.status(503)
        loading = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
        assert await answer(http, server, "/v1/chat/completions", json=body("hello")) == (503, loading)
        server.loading = True
        assert await answer(http, server, "/health") == (503, loading)
        server.loading = False
        server.faults.redirect("http://127.0.0.2:1/v1/chat/completions")
        async with http.post(url, json=body("hello"), allow_redirects=False) as response:
            assert (response.status, response.headers["Location"][:16]) == (307, "http://127.0.0.2")
        server.faults.html()
        async with http.post(url, json=body("hello")) as response:
            assert (response.status, response.content_type) == (200, "text/html")
        server.faults.too_long()
        assert (await answer(http, server, "/v1/chat/completions", json=body("hello")))[0] == 400
        server.faults.reset(word=None)
        with pytest.raises(aiohttp.ClientConnectionError):
            await lines(http, server, body("hello"))
        server.faults.status(500, path="/health", times=2, skip=1)
        assert [(await answer(http, server, "/health"))[0] for _ in range(4)] == [200, 500, 500, 200]
        assert text(await lines(http, server, body("hello"))) == "You said: hello"
        assert not server.aborted


async def test_faults_within_a_stream(http: aiohttp.ClientSession) -> None:
    async with FakeOpenAI("vllm", {MODEL: 100}) as server:
        server.faults.close(word=2)
        cut = await lines(http, server, body("hello"))
        assert (text(cut), reason(cut), cut[-1] == "data: [DONE]") == ("You said:", None, False)
        server.faults.bad_json(word=1)
        bad = await lines(http, server, body("hello"))
        with pytest.raises(json.JSONDecodeError):
            chunks(bad)
        server.faults.stream_error("no memory", word=1)
        failed = await lines(http, server, body("hello"))
        assert json.loads(failed[-2][6:])["error"]["message"] == "no memory"
        server.faults.long_line(200_000, word=1)
        assert max(map(len, await lines(http, server, body("hello")))) > 200_000
        server.faults.reset(word=2)
        async with http.post(f"{server.url}/chat/completions", json=body("hello")) as response:
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        assert not server.aborted
        hang = server.faults.hang(word=1)
        asking = asyncio.ensure_future(lines(http, server, body("hello")))
        await server.until(lambda: hang.hits)
        hang.release()
        assert text(await asking) == "You said: hello"


async def test_https_resets_like_http() -> None:
    authority = Authority("127.0.0.1")
    connector = aiohttp.TCPConnector(ssl=authority.client_context())
    async with (
        FakeOpenAI("vllm", {MODEL: 100}, tls=authority.server_context()) as server,
        aiohttp.ClientSession(connector=connector) as http,
    ):
        assert text(await lines(http, server, body("hello"))) == "You said: hello"
        server.faults.reset(word=1)
        with pytest.raises(aiohttp.ClientError):
            await lines(http, server, body("hello"))
        assert not server.aborted


@pytest.mark.parametrize("at", [-1, 1, 6, 40])
async def test_an_event_is_split_into_two_segments(at: int) -> None:
    async with FakeOpenAI("vllm", {MODEL: 100}) as server:
        server.answers("hello", "Grüße")
        server.faults.split(at)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        sent = json.dumps(body("hello")).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(sent)}\r\n\r\n"
        )
        writer.write(head.encode() + sent)
        segments = [segment async for segment in _segments(reader)]
        writer.close()
        await writer.wait_closed()
    split = any(segment.endswith(b"Gr\xc3\r\n") for segment in segments)  # HTTP's chunk ends with the segment
    assert split is (at == -1)
    assert b"".join(segments).endswith(b"0\r\n\r\n")
    assert len(segments) == 5  # each of the role, the word, the reason and [DONE] is cut once


async def test_a_server_that_is_down_refuses_and_comes_back_on_its_port(http: aiohttp.ClientSession) -> None:
    async with FakeOpenAI("sglang", {MODEL: 100}) as server, FakeOpenAI("ollama", {MODEL: 100}) as other:
        server.gates.hold("hello/1")
        asking = asyncio.ensure_future(lines(http, server, body("hello")))
        await server.gates.reached("hello/1")
        url = server.url
        await server.down()
        with pytest.raises(aiohttp.ClientError):
            await asking
        with pytest.raises(aiohttp.ClientConnectorError):
            await lines(http, server, body("hello"))
        assert text(await lines(http, other, body("hello"))) == "You said: hello"
        await server.up()
        await server.gates.open("hello/1")
        assert (server.url, server.aborted) == (url, [])
        assert text(await lines(http, server, body("hello"))) == "You said: hello"


async def test_an_error_before_the_first_word_is_a_status_where_none_was_sent(http: aiohttp.ClientSession) -> None:
    found = {}
    for kind in KINDS:
        async with FakeOpenAI(kind, {MODEL: 100}) as server:
            server.faults.stream_error("no memory")
            async with http.post(f"{server.url}/chat/completions", json=body("hello")) as response:
                found[kind] = response.status
                assert "no memory" in await response.text()
    assert found == {"vllm": 200, "ray": 200, "sglang": 500, "llama.cpp": 500, "ollama": 500, "transformers": 200}


async def _segments(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while segment := await reader.read(1 << 16):
        yield segment
