"""Tests pictures over the real adapters, with the model on a server: a question, a follow-up, a model that is blind."""

import base64
import io
from pathlib import Path
from typing import cast

import pytest
from PIL import Image

from bot.engine.remote.remote_engine import RemoteEngine
from tests.support.builders.picture_files import encoded, half_red, phone_photo
from tests.support.builders.platform_services import Platform, PlatformSetup
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.fakes.scripted_engine import ScriptedEngine

pytest_plugins = ["tests.support.fixtures.both_platforms"]

MODEL = "org/seeing-7b"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHOUSE_ENGINE", "openai")
    monkeypatch.setenv("INHOUSE_ENGINE_URLS", "http://127.0.0.1:1/v1")
    monkeypatch.setattr("bot.engine.remote.server_pool.PROBE_EVERY_S", 0.1)


def engine_of(server: FakeOpenAI) -> ScriptedEngine:
    return cast(ScriptedEngine, RemoteEngine([server.url]))


def shown(server: FakeOpenAI, number: int) -> list[Image.Image]:
    """The pictures in a request to the server, oldest first."""
    parts = [part for message in server.asked[number].body["messages"] for part in message["content"]]
    urls = [part["image_url"]["url"] for part in parts if isinstance(part, dict) and part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


async def answer(setup: PlatformSetup, text: str, **more: object) -> str:
    found: str = await setup.answer_to(await setup.ana.says(setup.general, text, mention=True, **more), timeout=60.0)
    return found


@pytest.mark.usefixtures("served")
async def test_a_model_on_a_server_sees_a_phone_s_photo_upright(tmp_path: Path, platform: Platform) -> None:
    server = FakeOpenAI("llama.cpp", {MODEL: 4096}, abilities=("vision",))
    async with server, platform.open(tmp_path, engine=engine_of(server), model=MODEL, models="") as setup:
        said = await answer(setup, "What is red?", files={"photo.jpg": phone_photo(6)})
        assert said.startswith("You said: ")
        assert "cannot see" not in said
        (photo,) = shown(server, 0)
        assert photo.size == (40, 60)
        assert not photo.getexif()


@pytest.mark.usefixtures("served")
async def test_a_blind_model_names_one_that_sees(tmp_path: Path, platform: Platform) -> None:
    blind = FakeOpenAI("vllm", {"org/blind-7b": 4096})
    seeing = FakeOpenAI("llama.cpp", {MODEL: 4096}, abilities=("vision",))
    async with blind, seeing:
        blind.faults.status(400, "this is not a multimodal model")
        engine = cast(ScriptedEngine, RemoteEngine([blind.url, seeing.url]))
        names = {"model": "org/blind-7b", "models": f"org/blind-7b,{MODEL}"}
        async with platform.open(tmp_path, engine=engine, **names) as setup:
            said = await answer(setup, "What is red?", files={"cat.png": encoded(half_red(), "PNG")})
            assert said.startswith("I cannot see images, so I left out `cat.png`; `org/seeing-7b` here can see them.")
            assert "You said:" in said
            assert shown(blind, -1) == []
