"""Tests pictures over the real adapters, with a tiny model that sees in the engine's own process."""

import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

from bot.engine.client.process import EngineProcess
from bot.types.engine import EngineRequest
from bot.types.messages import Picture, Prompt, TokenDelta
from tests.support.builders.colour_model import COLOURS, FILE, QUESTION, make_colour_model
from tests.support.builders.picture_files import encoded, half_red, noise, phone_photo
from tests.support.builders.platform_services import Message, Platform, PlatformSetup
from tests.support.builders.tiny_vision_model import make_tiny_vision_model
from tests.support.fakes.scripted_engine import ScriptedEngine

pytest_plugins = ["tests.support.fixtures.both_platforms"]


class WatchedEngine(EngineProcess):
    """An engine that notes its prompts, and is killed after the first token of the first `deaths` answers."""

    def __init__(self, deaths: int = 0) -> None:
        super().__init__()
        self.prompts: list[Prompt] = []
        self._deaths = deaths

    @property
    def shown(self) -> list[tuple[Picture, ...]]:
        """The pictures of each prompt."""
        return [tuple(picture for turn in prompt.turns for picture in turn.pictures) for prompt in self.prompts]

    async def stream(self, request: EngineRequest) -> AsyncGenerator[TokenDelta, None]:
        self.prompts.append(request.prompt)
        async for delta in super().stream(request):
            if self._deaths and self.pid is not None:
                self._deaths -= 1
                os.kill(self.pid, signal.SIGKILL)
            yield delta


def service(
    root: Path, platform: Platform, engine: EngineProcess, folder: Path
) -> AbstractAsyncContextManager[PlatformSetup]:
    settings: dict[str, Any] = {"model": str(folder), "models": "", "device": "cpu"}
    more = {"max_tokens": 8, "temperature": 0.0, "system_prompt": ""}
    return platform.open(root, engine=cast(ScriptedEngine, engine), **settings, **more)


async def asks(setup: PlatformSetup, platform: Platform, text: str, first: Message = None, **more: Any) -> Message:
    """Asks in the conversation of `first` and waits for the answer."""
    within = {"thread": first} if platform.name == "slack" and first is not None else {}
    question = await setup.ana.says(setup.general, text, mention=True, **within, **more)
    said = await setup.answer_to(question, timeout=60.0)
    assert said
    assert "cannot see" not in said
    return question


async def why(setup: PlatformSetup, platform: Platform, first: Message) -> str:
    """What `!why` says in the conversation of `first`."""
    if platform.name == "discord":
        return str(await (await setup.ana.slash("why", channel=setup.general)).answered())
    await setup.ana.says(setup.general, "!why", mention=True, thread=first)
    await setup.server.until(lambda: setup.general.ephemerals)
    return str(setup.general.ephemerals[-1].shown)


async def regenerates(setup: PlatformSetup, platform: Platform, question: Message) -> None:
    found = setup.answers_to(question)[0]
    if platform.name == "discord":
        await setup.ana.clicks(found[0], "Regenerate")
    else:
        await setup.ana.presses(found, "Regenerate")


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model that names colours."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_colour_model(tmp_path_factory.mktemp("colours"))


@pytest.mark.timeout(300)
async def test_a_model_names_the_colour_of_a_picture(tmp_path: Path, platform: Platform, colours: Path) -> None:
    platform.takes_all_calls()
    shown = (("red", "PNG"), ("blue", "JPEG"), ("green", "WEBP"), ("red", "GIF"))
    async with service(tmp_path, platform, WatchedEngine(), colours) as setup:
        for number, (name, kind) in enumerate(shown):
            data = encoded(Image.new("RGB", (60, 40), COLOURS[name]), kind)
            channel = platform.channel(f"channel{number}")
            question = await setup.ana.says(channel, QUESTION, mention=True, files={FILE: data})
            assert await setup.answer_to(question, timeout=60.0) == name, kind


async def test_a_picture_stays_with_its_conversation(tmp_path: Path, platform: Platform) -> None:
    platform.takes_all_calls()
    folder = make_tiny_vision_model(tmp_path / "tiny-seeing")
    engine = WatchedEngine()
    async with service(tmp_path, platform, engine, folder) as setup:
        first = await asks(setup, platform, "What is red?", files={"photo.jpg": phone_photo(6)})
        (photo,) = engine.shown[0]
        assert (photo.width, photo.height) == (40, 60)
        await regenerates(setup, platform, first)
        await setup.server.until(lambda: len(engine.prompts) == 2, 60)
        assert engine.shown[1] == (photo,)
        await setup.server.until(lambda: len(setup.answers_to(first)) == 1, 60)
        await asks(setup, platform, "And what is blue?", first)
        await setup.server.until(lambda: len(engine.prompts) == 3, 60)
        assert engine.shown[2] == (photo,)
        assert "left out" not in await why(setup, platform, first)


async def test_why_tells_of_pictures_that_did_not_fit(tmp_path: Path, platform: Platform) -> None:
    platform.takes_all_calls()
    folder = make_tiny_vision_model(tmp_path / "tiny-seeing")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 240  # a picture of noise takes 60
    (folder / "config.json").write_text(json.dumps(config))
    engine = WatchedEngine()
    async with service(tmp_path, platform, engine, folder) as setup:
        files = {f"noise{number}.png": encoded(noise(200, 180 + number), "PNG") for number in range(3)}
        first = await asks(setup, platform, "What are they?", files=files)
        await asks(setup, platform, "And this?", first, files={"red.png": encoded(half_red(200, 190), "PNG")})
        assert len(engine.shown[1]) == 4
        assert "The oldest 3 pictures did not fit and were left out." in await why(setup, platform, first)


@pytest.mark.fault(27)
async def test_an_engine_that_dies_with_a_picture_answers_again(tmp_path: Path, platform: Platform) -> None:
    folder = make_tiny_vision_model(tmp_path / "tiny-seeing")
    engine = WatchedEngine(deaths=1)
    async with service(tmp_path, platform, engine, folder) as setup:
        await asks(setup, platform, "What is red?", files={"photo.jpg": phone_photo(6)})
        assert len(engine.prompts) == 2
        assert engine.shown[0] == engine.shown[1] != ()
