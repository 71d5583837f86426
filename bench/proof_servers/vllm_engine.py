"""Adds vLLM's CPU build to the engines of the contract tests: `pytest -p bench.proof_servers.vllm_engine`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.engine.contract.engines import ENGINES, Subject, run_real, smollm2
from tests.support.real_servers.servers import vllm


@asynccontextmanager
async def run_vllm(folder: Path) -> AsyncIterator[Subject]:
    """The engine on vLLM with SmolLM2."""
    server = vllm(smollm2(), folder, slots=2, window=1024)
    async with run_real(server, talks=True) as subject:
        yield subject


ENGINES["vLLM (CPU build)"] = run_vllm
