"""Tests malicious templates in a real engine: rejected by name, while other requests are answered (fault 54)."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from bot.engine.client.process import EngineProcess
from bot.types.errors import ModelError
from bot.types.messages import FinishReason
from tests.support.builders.engine_requests import ask, load
from tests.support.builders.poison_templates import CROOKED, ENDLESS, LARGE, WORDY
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.scripted_platform import ScriptedPlatform

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

START_S = 240.0
"""Seconds; a start imports torch, which is slow on a busy machine."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own() -> AsyncIterator[EngineProcess]:
    """An engine of this module's own, because it may hang."""
    process = EngineProcess()
    yield process
    await process.close()


def poisoned(model: Path, folder: Path, template: str) -> Path:
    """A copy of a model with another chat template."""
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.fault(54)
@pytest.mark.parametrize(
    ("template", "reason"),
    [
        *((template, "takes longer than 5 s") for template in ENDLESS.values()),
        *((template, "takes more than 512 MB of memory") for template in LARGE.values()),
        *((template, "writes more than 64 kB besides the messages") for template in WORDY.values()),
        *((template, "") for template in CROOKED.values()),
    ],
    ids=[*ENDLESS, *LARGE, *WORDY, *CROOKED],
)
async def test_a_poisonous_template_is_refused_and_the_model_before_comes_back(
    own: EngineProcess, tiny: dict[str, Path], tmp_path: Path, template: str, reason: str
) -> None:
    await load(own, tiny["llama"])
    before = own.pid
    said = (await ask(own, "before", "Where are the keys?")).text
    with pytest.raises(ModelError, match=f"^The chat template of toxic {reason}.*choose another model"):
        await load(own, poisoned(tiny["llama"], tmp_path / "toxic", template))
    assert (await load(own, tiny["llama"])).resident[0] == "llama"
    assert (await ask(own, "after", "Where are the keys?")).text == said
    assert own.pid == before, "the process of the answers was not touched"


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json", "added_tokens.json"])
async def test_a_file_that_is_far_too_large_is_not_read(
    own: EngineProcess, tiny: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = poisoned(tiny["llama"], tmp_path / "toxic", "")
    with (folder / name).open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(ModelError, match=rf"{name} has 3,072 MB, and at most \d+ are read of such a file"):
        await load(own, folder)


@pytest_asyncio.fixture(loop_scope="module")
async def setup(tiny: dict[str, Path], tmp_path: Path) -> AsyncIterator[ServiceSetup]:
    """A service with a real engine, a tiny model, and one whose template never ends."""
    toxic = poisoned(tiny["llama"], tmp_path / "toxic", ENDLESS["nested ranges"])
    catalog = tmp_path / "tiny.toml"
    entries = {"tiny": tiny["llama"], "toxic": toxic}
    catalog.write_text(
        "".join(f"[[model]]\nname = {json.dumps(name)}\npath = {json.dumps(str(path))}\nparameters = 100000\n"
                for name, path in entries.items())
    )  # fmt: skip
    settings: dict[str, Any] = {"catalog": catalog, "models": "tiny,toxic", "model": "tiny", "device": "cpu"}
    more: dict[str, Any] = {"dtype": "float32", "temperature": 0.0, "max_tokens": 200, "kv_cache_mb": 16}
    engine = cast(ScriptedEngine, EngineProcess())
    async with (
        ScriptedPlatform() as platform,
        run_service(tmp_path, platform, engine=engine, ready=False, **settings, **more) as opened,
    ):
        platform.patience_s = START_S
        await platform.connected()
        await platform.until(lambda: opened.loader.loaded is not None, "the model is loaded")
        yield opened


@pytest.mark.fault(54)
async def test_a_channel_that_switches_to_it_gets_a_sentence_and_the_model_before(setup: ServiceSetup) -> None:
    here, there = setup.team, setup.team.elsewhere(channel="there")
    await there.says("ben", "Where are the keys?")
    assert "toxic answers here now" in await here.told("model", "toxic")
    await here.says("ana", "Who wrote this?")
    await there.says("ben", "And when?")
    answer = await here.reply_to("Who wrote this?")
    assert answer.text.startswith(
        "*The chat template of toxic takes longer than 5 s, so it is not used; choose another model, or name one of our"
        " templates in the catalog (phi-2). tiny answers instead.*"
    )
    assert (await here.told("model")).startswith("tiny answers here")
    for text in ("Where are the keys?", "And when?"):
        assert (await there.reply_to(text)).reason is not FinishReason.ERROR
    assert setup.loader.losses == 0
