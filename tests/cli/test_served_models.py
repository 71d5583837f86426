"""Tests `inhouse models` and `inhouse pull` with models on servers, as a process against a fake server."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.support.fakes.openai_server import FakeOpenAI

ROOT = Path(__file__).parents[2]
MODEL = "org/A-Model-With-A-Long-Name-Instruct-235B"


async def inhouse(tmp_path: Path, urls: str, *arguments: str) -> tuple[int | None, str, str]:
    """Runs `inhouse`; exit status, stdout, stderr."""
    settings = {"INHOUSE_ENGINE": "openai", "INHOUSE_ENGINE_URLS": urls, "INHOUSE_MODEL": MODEL, "COLUMNS": "80"}
    environment = os.environ | settings | {"PYTHONPATH": str(ROOT), "FORCE_COLOR": "", "TTY_COMPATIBLE": ""}
    command = (sys.executable, "-X", "importtime", "-m", "bot.cli", *arguments)
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, env=environment, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(60):
        out, error = await process.communicate()
    return process.returncode, out.decode(), error.decode()


async def test_models_shows_what_each_server_offers_without_importing_torch(tmp_path: Path) -> None:
    async with FakeOpenAI("vllm", {MODEL: 131072}) as server:
        urls = f"{server.url},http://127.0.0.1:9/v1"
        (status, out, imports), (_, as_json, _) = await asyncio.gather(
            inhouse(tmp_path, urls, "models"), inhouse(tmp_path, urls, "models", "--json")
        )
    assert status == 0
    assert not [line for line in imports.splitlines() if line.endswith((" torch", " transformers"))]
    assert [MODEL, "131,072", "vLLM", "on", f"127.0.0.1:{server.port}"] in [line.split() for line in out.splitlines()]
    assert "127.0.0.1:9: no connection" in out
    assert max(map(len, out.splitlines())) <= 100
    up, down = json.loads(as_json)["servers"]
    assert up["models"] == {MODEL: 131072}
    assert down["problem"]


async def test_pull_says_that_there_is_nothing_to_pull(tmp_path: Path) -> None:
    status, _, error = await inhouse(tmp_path, "http://127.0.0.1:9/v1", "pull", "phi-4", "--yes")
    assert status == 0
    assert "there is nothing to pull" in error
