"""Tests pictures over the real adapters with llama.cpp's real server: SmolLM2, which sees by a projector of random
weights."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import pytest

from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.engine import EngineRequest, ModelSource
from bot.types.messages import Picture, Prompt, Role, SamplingParams, TokenDelta, Turn, Usage
from tests.support.builders.managed_servers import ONE_THREAD, gguf_source, server_engine
from tests.support.builders.mmproj_file import PICTURE_TOKENS, write_mmproj
from tests.support.builders.picture_files import encoded, half_red, phone_photo
from tests.support.builders.platform_services import Platform
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.real_servers.servers import llama_cpp

pytest_plugins = ["tests.support.fixtures.both_platforms", "tests.support.fixtures.gguf"]

WIDTH = 576
"""Hidden size of SmolLM2-135M."""


class NotingEngine(RemoteEngine):
    """An engine that notes what servers say about their answers."""

    usages: list[Usage]

    async def stream(self, request: EngineRequest) -> AsyncGenerator[TokenDelta, None]:
        async for delta in super().stream(request):
            if delta.usage is not None:
                self.usages.append(delta.usage)
            yield delta


async def test_llama_cpp_reads_a_picture(
    tmp_path: Path, platform: Platform, smollm2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHOUSE_ENGINE", "openai")
    monkeypatch.setenv("INHOUSE_ENGINE_URLS", "http://127.0.0.1:1/v1")
    mmproj = write_mmproj(tmp_path / "mmproj.gguf", WIDTH)
    with llama_cpp(smollm2_dir, tmp_path, slots=1, mmproj=mmproj) as server:
        engine = NotingEngine([server.url])
        engine.usages = []
        settings = {"model": server.model, "models": "", "max_tokens": 12, "temperature": 0.0}
        async with platform.open(tmp_path, engine=cast(ScriptedEngine, engine), **settings) as setup:
            question = await setup.ana.says(
                setup.general, "What is red?", mention=True, files={"photo.jpg": phone_photo(6)}
            )
            said = await setup.answer_to(question, timeout=100.0)
            assert said
            assert "cannot see" not in said
        (prompt,) = [slot["prompt"] for slot in server.ask("/slots")]
        assert "[picture photo.jpg]" in prompt
        body = {"content": prompt, "add_special": True, "parse_special": True}
        of_text = len(server.ask("/tokenize", body)["tokens"])
        assert [usage.prompt_tokens - of_text for usage in engine.usages] == [PICTURE_TOKENS]


async def test_a_server_that_inhouse_runs_sees_with_its_projector(tmp_path: Path, smollm2_gguf: Path) -> None:
    mmproj = write_mmproj(tmp_path / "mmproj.gguf", WIDTH)
    red = Picture("red.png", "image/png", encoded(half_red(), "PNG"), 60, 40)
    source: ModelSource = gguf_source(smollm2_gguf)
    used = []
    async with server_engine(arguments=f"{ONE_THREAD} --mmproj {mmproj}") as engine:
        loaded = await engine.load(source, lambda _: None)
        assert loaded.capabilities.vision is True
        for name, shown in (("text", ()), ("picture", (red,))):
            prompt = Prompt("", (Turn(Role.USER, "", "What is red?", "1", 0.0, shown),))
            params = SamplingParams(temperature=0.0, max_tokens=4)
            deltas = [delta async for delta in engine.stream(EngineRequest(name, prompt, params))]
            assert deltas[-1].usage is not None
            used.append(deltas[-1].usage.prompt_tokens)
    assert used[1] - used[0] >= PICTURE_TOKENS
