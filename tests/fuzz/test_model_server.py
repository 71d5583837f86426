"""Tests malformed answers of a model's server about itself: it is used or it is not, and it is asked again."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import hdrs, web
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.engine.remote.server_pool import ServerPool
from tests.support.builders.malformed_json import broken
from tests.support.fakes.openai.server import KINDS
from tests.support.fakes.openai.server_kinds import State

MODEL = "org/Model-7B"
FAR = "Mon, 01 Jan 99999999999999 00:00:00 GMT"
Pages = dict[str, dict[str, Any]]  # Any: JSON values


def pages_of(kind: str) -> Pages:
    """What a server of this kind says about itself, by path."""
    state = State({MODEL: 4096}, slots=4, metrics=True, used=[MODEL], abilities=("thinking", "tools", "vision"))
    found: Pages = {}
    for (_, path), route in KINDS[kind]().routes(state).items():
        if path in ("/v1/models", "/health", "/props", "/get_model_info", "/api/ps", "/api/show", "/api/version"):
            text = route({"model": MODEL}).text or ""
            if text.startswith("{"):
                found[path] = json.loads(text)
    return found


@asynccontextmanager
async def served(pages: Pages, headers: Mapping[str, str] | None = None) -> AsyncIterator[ServerPool]:
    """A pool with one server, which has answered once."""

    async def serve(request: web.Request) -> web.Response:
        if request.path not in pages:
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.json_response(pages[request.path], headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pool = ServerPool([f"http://127.0.0.1:{runner.addresses[0][1]}/v1"], on_probed=lambda: None)
        await pool.open()
        try:
            await pool.probe()
            yield pool
        finally:
            await pool.close()
    finally:
        await runner.cleanup()


@pytest.mark.fault(44)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(data=st.data())
async def test_a_server_may_say_anything_about_itself(kind: str, data: st.DataObject) -> None:
    pages = {path: data.draw(broken(page), path) for path, page in pages_of(kind).items()}
    async with served(pages) as pool:
        (server,) = pool.servers
        assert not (server.problem and server.offers(MODEL))
        assert set(pool.seeing) <= set(pool.offered)
        for name, window in server.models.items():
            assert name.isprintable()
            assert 0 <= window < 2**31


@pytest.mark.fault(44)
async def test_a_loaded_model_without_a_usable_name_is_ignored() -> None:
    pages = pages_of("ollama") | {"/api/ps": {"models": [{"name": [], "context_length": 8}, {"name": MODEL}, 7]}}
    async with served(pages) as pool:
        assert pool.offered == (MODEL,)


@pytest.mark.fault(44)
@pytest.mark.parametrize("date", [FAR, "Mon, 01 Jan 2026 00:00:00 +9999", "now", "9" * 400])
async def test_a_date_may_be_anything(date: str) -> None:
    async with served(pages_of("vllm"), {hdrs.DATE: date}) as pool:
        assert pool.offered == (MODEL,)


@pytest.mark.fault(44)
async def test_ids_that_would_break_a_line_or_fill_the_log_are_no_models(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inhouse")
    ids = [MODEL, "two\nlines", "\x1b[31mred", "x" * 10_000, "", *(f"org/{number:030}" for number in range(1000))]
    async with served({"/v1/models": {"data": [{"id": each, "owned_by": "vllm"} for each in ids]}}) as pool:
        assert len(pool.offered) == 1001
    assert MODEL in caplog.text
    assert max(map(len, caplog.text.splitlines())) < 1000
