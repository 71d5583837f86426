"""Tests the engine on vLLM's CPU build with SmolLM2; its start takes two minutes."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.config.settings import load_settings
from bot.models.catalog import Catalog
from bot.models.pull import pull
from bot.types.errors import RequestFailed
from tests.support.real_servers.contract import ENDLESS, QUESTION, ServerContract, answer, request, run_engine
from tests.support.real_servers.servers import RealServer, vllm

WINDOW = 1024


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """vLLM with two answers at once."""
    settings = load_settings()
    model: Path = pull(Catalog.of(settings).get("smollm2"), settings)
    with vllm(model, tmp_path_factory.mktemp("vllm"), slots=2, window=WINDOW) as server:
        yield server


class TestVllm(ServerContract):
    """The contract over vLLM."""

    @pytest.fixture
    def server(self, vllm_server: RealServer) -> RealServer:
        return vllm_server

    async def test_the_window_comes_from_the_server(self, server: RealServer) -> None:
        async with run_engine(server) as (_, loaded):
            assert loaded.context_window == WINDOW

    async def test_what_fits_no_window_is_refused_with_a_sentence(self, server: RealServer) -> None:
        async with run_engine(server) as (engine, _):
            with pytest.raises(RequestFailed, match="more than the model's context window"):
                await answer(engine, request("one two " * WINDOW))

    async def test_an_abort_ends_the_work_of_the_server(self, server: RealServer) -> None:
        async with run_engine(server) as (engine, _):
            stream = engine.stream(request(QUESTION, params=ENDLESS))
            await anext(stream)
            await stream.aclose()
        await asyncio.to_thread(server.until_metric, "vllm:num_requests_running", 0.0)
