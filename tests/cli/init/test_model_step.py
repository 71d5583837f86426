"""Tests which engine and model `inhouse init` chooses for machines that the tests do not have."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from bot.cli.init.model_step import choose_model, completed
from bot.cli.init.session import Session
from bot.models.hardware import Hardware
from bot.setup.env_file import EnvFile
from bot.setup.prompts import Prompts

H100 = Hardware("H100", "13.0", 81_000, 80_000, True, "Xeon", 26, 200_000, 190_000, read_gb_s=2932.0)


@pytest.fixture
def session(home: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session that asks nothing, on a machine with an H100 and vLLM."""

    async def probe(device: str, cache_dir: Path, *, measure: bool) -> Hardware:
        return H100

    monkeypatch.setattr("bot.cli.init.model_step.probe", probe)
    monkeypatch.setattr("bot.cli.model_ranking.find_program", lambda engine: ("vllm",) if engine == "vllm" else ())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    monkeypatch.setattr("bot.cli.init.model_step.disk_free", lambda: 10**12)
    console = Console(file=io.StringIO(), width=80)
    return Session(console, Prompts(console, assume_yes=True), EnvFile(Path(".env"), None))


def test_vllm_runs_the_model_where_it_is_installed_and_there_is_a_gpu(session: Session) -> None:
    choose_model(session, None, None)
    assert session.values == {"INHOUSE_ENGINE": "vllm", "INHOUSE_MODEL": "qwen3.8-27b"}


def test_a_gguf_file_is_run_by_llama_cpp_and_addresses_of_servers_are_cleared(session: Session) -> None:
    Path(".env").write_text("INHOUSE_ENGINE=openai\nINHOUSE_ENGINE_URLS=http://gpu1:8000/v1\nINHOUSE_MODEL=x\n")
    choose_model(session, "org/name-GGUF:Q4_K_M", None)
    assert session.values == {
        "INHOUSE_ENGINE": "llama.cpp",
        "INHOUSE_ENGINE_URLS": "",
        "INHOUSE_MODEL": "org/name-GGUF:Q4_K_M",
    }
    assert session.settings().engine == "llama.cpp"
    edited = EnvFile.read(Path(".env")).edited(session.values)
    assert edited == "INHOUSE_ENGINE=llama.cpp\nINHOUSE_ENGINE_URLS=\nINHOUSE_MODEL=org/name-GGUF:Q4_K_M\n"


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("localhost:11434", "http://localhost:11434/v1"),
        ("gpu1:8000, https://gpu2/", "http://gpu1:8000/v1,https://gpu2/v1"),
        ("http://gpu1:8000/v1", "http://gpu1:8000/v1"),
        ("https://host/openai/v1/", "https://host/openai/v1/"),
        ("http://[", "http://["),
        ("[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_is_completed(typed: str, taken: str) -> None:
    assert completed(typed) == taken
