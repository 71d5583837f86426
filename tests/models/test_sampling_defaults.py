"""Tests where the sampling parameters of a model come from, as /settings shows them and requests carry them."""

import json
from pathlib import Path
from typing import cast

import pytest

from bot.config.settings import Settings
from bot.engine.remote.remote_engine import RemoteEngine
from bot.models import sampling_defaults
from bot.models.catalog import Catalog
from bot.models.runtime_config import RuntimeConfig
from bot.models.sampling_defaults import SamplingDefaults, read_advice
from tests.support.builders.service import make_settings, run_service
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.fakes.scripted_engine import ScriptedEngine

QWEN = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.8, "eos_token_id": [1, 2]}


def advise(root: Path, content: object, model: str = "small") -> Path:
    """Write the generation_config.json of a model of `make_settings`."""
    folder = root / "models" / model
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "generation_config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def resolved(settings: Settings, model: str, *, greedy: bool = True) -> dict[str, tuple[float, str]]:
    found = SamplingDefaults(RuntimeConfig(settings, Catalog.of(settings))).of(model, greedy=greedy)
    return {name: (each.value, each.source) for name, each in found.items()}


async def test_settings_says_where_each_value_comes_from(tmp_path: Path) -> None:
    advise(tmp_path, QWEN)
    async with run_service(tmp_path, top_p=0.9) as setup:
        await setup.platform.connected()
        await setup.team.command("max_tokens", "77")
        told = (await setup.team.told("settings")).splitlines()
        assert told[:5] == [
            "- model: small (INHOUSE_MODEL)",
            "- temperature: 0.6 (the model's generation_config.json)",
            "- top_p: 0.9 (INHOUSE_TOP_P)",
            "- top_k: 20 (the model's generation_config.json)",
            "- repetition_penalty: 1 (default)",
        ]
        assert "- max_tokens: 77 (set here)" in told
        assert any(line.startswith("- system: ") and line.endswith("(the catalog)") for line in told)
        await setup.team.asks("ana", "hello")
        params = setup.engine.prompt_of("hello").params
        assert (params.temperature, params.top_p, params.top_k) == (0.6, 0.9, 20)
        await setup.team.command("temperature", "0.1")
        assert "- temperature: 0.1 (set here)" in await setup.team.told("settings")


@pytest.mark.parametrize("model", ["phi-4", "phi-2", "mistral-7b-instruct-v0.3"])
def test_the_missions_models_have_a_repetition_penalty_and_others_have_none(tmp_path: Path, model: str) -> None:
    settings = make_settings(tmp_path, catalog=None, models=(), model="smollm2")
    assert resolved(settings, model)["repetition_penalty"] == (1.1, "the catalog")
    assert resolved(settings, "qwen3-4b-instruct-2507")["repetition_penalty"] == (1.0, "default")
    given = make_settings(tmp_path, catalog=None, models=(), model="smollm2", repetition_penalty=1.3)
    assert resolved(given, model)["repetition_penalty"] == (1.3, "INHOUSE_REPETITION_PENALTY")


def test_the_catalog_comes_before_the_repository(tmp_path: Path) -> None:
    advise(tmp_path, {"temperature": 0.9, "min_p": 0.05, "presence_penalty": 1.5})
    settings = make_settings(tmp_path)
    (tmp_path / "catalog.toml").write_text('[[model]]\nname = "small"\npath = "models/small"\ntemperature = 0.15\n')
    settings = settings.model_copy(update={"models": ()})
    found = resolved(settings, "small")
    assert found["temperature"] == (0.15, "the catalog")
    assert found["min_p"] == (0.05, "the model's generation_config.json")
    assert found["presence_penalty"] == (1.5, "the model's generation_config.json")
    assert found["top_p"] == (0.95, "default")


def test_another_answer_is_not_greedy_unless_the_operator_says_so(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, catalog=None, models=(), model="smollm2")
    assert resolved(settings, "smollm2")["temperature"] == (0, "the catalog")
    assert resolved(settings, "smollm2", greedy=False)["temperature"] == (0.7, "default")
    greedy = make_settings(tmp_path, catalog=None, models=(), model="smollm2", temperature=0)
    assert resolved(greedy, "smollm2", greedy=False)["temperature"] == (0, "INHOUSE_TEMPERATURE")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (QWEN, {"temperature": 0.6, "top_k": 20, "top_p": 0.8}),
        (QWEN | {"do_sample": False}, {}),
        ({"temperature": "hot", "top_p": True, "top_k": -1, "min_p": None, "repetition_penalty": 0.5}, {}),
        ('{"temperature": NaN, "top_p": Infinity}', {}),
        ("[1]", {}),
        ("{", {}),
        (" " * 70_000, {}),
    ],
)
def test_only_valid_values_of_a_repository_are_taken(tmp_path: Path, content: object, expected: object) -> None:
    assert read_advice(advise(tmp_path, content)) == expected


def test_a_model_that_is_pulled_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_defaults, "LOOK_AGAIN_S", 0.0)
    settings, folder = make_settings(tmp_path), tmp_path / "models" / "small"
    defaults = SamplingDefaults(RuntimeConfig(settings, Catalog.of(settings)))
    (folder / "config.json").unlink()
    assert defaults.of("small")["top_k"].value == 0
    (folder / "config.json").write_text("{}")
    advise(tmp_path, QWEN)
    assert defaults.of("small")["top_k"].value == 20


@pytest.mark.parametrize(("model", "penalty"), [("microsoft/phi-4", 1.1), ("Qwen/Qwen3-4B-Instruct-2507", 1.0)])
async def test_a_model_of_a_server_gets_what_the_catalog_says(tmp_path: Path, model: str, penalty: float) -> None:
    async with FakeOpenAI("vllm", {model: 4096}) as server:
        engine = cast(ScriptedEngine, RemoteEngine([server.url]))
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("INHOUSE_ENGINE", "openai")
            patched.setenv("INHOUSE_ENGINE_URLS", server.url)
            async with run_service(tmp_path, engine=engine, ready=False, model=model, models="") as setup:
                await setup.platform.connected()
                await setup.team.asks("ana", "hello")
                assert server.asked[0].body["repetition_penalty"] == penalty
                assert server.asked[0].body["temperature"] == 0.7
