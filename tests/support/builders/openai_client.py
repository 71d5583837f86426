"""Asks the fake OpenAI-compatible server over plain HTTP, and reads its streams."""

import json
from typing import Any

import aiohttp

from tests.support.fakes.openai_server import FakeOpenAI

MODEL = "org/Model-7B"
Json = dict[str, Any]  # Any: JSON values


def body(question: str, **more: Any) -> Json:  # Any: JSON values
    """A streamed chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], "stream": True, **more}


async def lines(http: aiohttp.ClientSession, server: FakeOpenAI, asked: Json) -> list[str]:
    """The lines of a streamed answer that are not empty."""
    async with http.post(f"{server.url}/chat/completions", json=asked) as response:
        assert response.status == 200, await response.text()
        return [line for line in (await response.text()).split("\n") if line]


def chunks(found: list[str]) -> list[Json]:
    """The chunks of a stream."""
    return [json.loads(line[6:]) for line in found if line.startswith("data: {")]


def text(found: list[str], name: str = "content") -> str:
    """The text of a stream."""
    deltas = [choice["delta"] for chunk in chunks(found) for choice in chunk["choices"]]
    return "".join(delta.get(name) or "" for delta in deltas)


def reason(found: list[str]) -> str | None:
    """The finish reason of a stream."""
    reasons = [choice.get("finish_reason") for chunk in chunks(found) for choice in chunk["choices"]]
    return next((each for each in reasons if each), None)


async def answer(http: aiohttp.ClientSession, server: FakeOpenAI, path: str, **sent: Any) -> tuple[int, Any]:
    """Status and JSON of a GET, or of a POST if `json` is given."""
    async with http.request("POST" if sent else "GET", f"{server.root}{path}", **sent) as response:
        raw = await response.text()
        return response.status, json.loads(raw) if response.content_type == "application/json" else raw
