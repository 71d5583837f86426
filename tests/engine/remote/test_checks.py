"""Tests what doctor says about the engine's servers, and the settings of servers."""

import pytest

from bot.config.settings import Misconfigured, Settings, load_settings
from bot.engine.remote.checks import servers
from bot.types.findings import Finding, State
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.fakes.tls import Authority

MODEL = "org/Model-7B"


def settings_of(urls: str, **more: object) -> Settings:
    return load_settings(engine="openai", engine_urls=urls, model=MODEL, **more)


async def findings(settings: Settings) -> list[Finding]:
    return [finding async for finding in servers(settings)]


async def test_a_server_is_reported_with_kind_model_window_and_latency() -> None:
    async with FakeOpenAI("vllm", {MODEL: 8192}, key="secret") as server:
        (found,) = await findings(settings_of(server.url, engine_key="secret"))
        assert found.state is State.OK
        assert found.check == f"127.0.0.1:{server.port}"
        assert found.found.startswith(f"vLLM, {MODEL}, 8,192 tokens, answers in ")


async def test_each_mistake_has_its_fix() -> None:
    async with FakeOpenAI("ollama", {"llama3": 4096}) as other, FakeOpenAI("vllm", {MODEL: 1}, key="secret") as locked:
        one, two, three = await findings(settings_of(f"{other.url},{locked.url},http://127.0.0.1:9/v1"))
    assert (one.state, one.found) == (State.WRONG, f"Ollama does not offer {MODEL}")
    assert "llama3" in one.fix
    assert "it refuses the key in INHOUSE_ENGINE_KEY (401)" in two.found
    assert "no connection" in three.found


async def test_a_server_that_is_down_is_a_warning_while_another_one_has_the_model() -> None:
    async with FakeOpenAI("transformers", {MODEL: 4096}) as server:
        up, down, lacking = await findings(settings_of(f"{server.url},http://127.0.0.1:9/v1"))
    assert (up.state, down.state, lacking.state) == (State.OK, State.WARNING, State.WARNING)
    assert "repetition_penalty" in lacking.found


async def test_a_certificate_is_verified_and_its_authority_can_be_set(tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = Authority("127.0.0.1")
    file = authority.write(tmp_path_factory.mktemp("ca") / "ca.pem")
    async with FakeOpenAI("vllm", {MODEL: 4096}, tls=authority.server_context()) as server:
        (refused,) = await findings(settings_of(server.url))
        assert "INHOUSE_ENGINE_CA" in refused.found
        (trusted,) = await findings(settings_of(server.url, engine_ca=str(file)))
        assert trusted.state is State.OK


async def test_a_clock_that_is_wrong_is_a_warning() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server:
        server.clock_s = -90.0
        up, clock = await findings(settings_of(server.url))
    assert (up.state, clock.state) == (State.OK, State.WARNING)
    assert "s behind this machine's" in clock.found


async def test_a_server_that_lists_its_model_but_is_not_healthy_is_wrong() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server:
        server.faults.status(503, "EngineDeadError", path="/health", times=9)
        (found,) = await findings(settings_of(server.url))
    assert found.state is State.WRONG
    assert found.found == "it answered 503: EngineDeadError"


@pytest.mark.parametrize(
    ("given", "mistake"),
    [
        ({"engine": "openai", "model": MODEL}, "there is no INHOUSE_ENGINE_URLS"),
        ({"engine": "openai", "engine_urls": "http://gpu1:8000/v1"}, "there is no INHOUSE_MODEL"),
        ({"engine_urls": "gpu1:8000"}, "INHOUSE_ENGINE_URLS"),
        ({"engine_urls": "http://user:secret@gpu1/v1"}, "INHOUSE_ENGINE_URLS"),
        ({"engine": "vlm"}, "auto, openai, vllm or llama.cpp"),
        ({"engine_key": "two words"}, "INHOUSE_ENGINE_KEY .* is not a token"),
    ],
)
def test_mistakes_in_the_settings_are_named(given: dict[str, str], mistake: str) -> None:
    with pytest.raises(Misconfigured, match=mistake):
        load_settings(**given)
