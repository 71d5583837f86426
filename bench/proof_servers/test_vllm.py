"""Tests the engine on vLLM's CPU build beyond the contract of all engines; its start takes two minutes."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.engine.contract.engines import smollm2
from tests.support.real_servers.asking import ENDLESS, QUESTION, request, run_engine
from tests.support.real_servers.servers import RealServer, vllm

WINDOW = 1024


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """vLLM with two answers at once."""
    with vllm(smollm2(), tmp_path_factory.mktemp("vllm"), slots=2, window=WINDOW) as server:
        yield server


async def test_the_window_comes_from_the_server(vllm_server: RealServer) -> None:
    async with run_engine(vllm_server) as (_, loaded):
        assert loaded.context_window == WINDOW


async def test_an_abort_ends_the_work_of_the_server(vllm_server: RealServer) -> None:
    async with run_engine(vllm_server) as (engine, _):
        stream = engine.stream(request(QUESTION, params=ENDLESS))
        await anext(stream)
        await stream.aclose()
    await asyncio.to_thread(vllm_server.until_metric, "vllm:num_requests_running", 0.0)
