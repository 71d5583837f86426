"""Tests what doctor says about the server that Inhouse runs, and which program is used."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.config.settings import load_settings
from bot.engine.local_server import server_commands
from bot.engine.local_server.checks import recommended, server
from bot.engine.local_server.server_commands import ServerCommands, alias_of, find_program
from bot.types.engine import ModelSource
from bot.types.errors import ConfigError
from bot.types.findings import Finding, State

pytest_plugins = ["tests.support.fixtures.gguf"]

LLAMA = """#!/bin/sh
case "$1" in
  --version) echo "version: 11434 (0a1b2c3d)$DISCORD_BOT_TOKEN" >&2 ;;
  --list-devices) printf 'Available devices:\\n  CUDA0: NVIDIA H200 (143771 MiB, 140000 MiB free)\\n' ;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server_commands, "VLLM_FOLDER", str(tmp_path / "none"))
    return tmp_path


def program(folder: Path, name: str, content: str = "#!/bin/sh\n") -> Path:
    file = folder / name
    file.write_text(content)
    file.chmod(0o755)
    return file


async def findings(found: AsyncIterator[Finding]) -> list[Finding]:
    return [finding async for finding in found]


async def gpu() -> bool:
    return True


async def no_gpu() -> bool:
    return False


async def test_a_program_on_path_comes_first_and_its_gpu_is_found(
    programs: Path, smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISCORD_BOT_TOKEN", "a-token-of-discord")
    file = program(programs, "llama-server", LLAMA)
    settings = load_settings(engine="llama.cpp")
    one, two = await findings(server(settings, no_gpu))
    assert (one.state, one.found) == (State.OK, f"{file}, version 11434 (0a1b2c3d)")
    assert (two.state, two.found) == (State.OK, "140,000 MB free")
    command = ServerCommands(settings).command(ModelSource("a,b", str(smollm2_gguf)))
    assert command.on_gpu
    assert command.at(7)[0] == str(file)
    assert command.at(7)[-6:] == ["--alias", "a-b", "--host", "127.0.0.1", "--port", "7"]
    on_cpu = ServerCommands(settings).command(ModelSource("a", str(smollm2_gguf), device="cpu"))
    assert (on_cpu.on_gpu, on_cpu.slots) == (False, 8)
    assert on_cpu.kv_cache_mb in range(500, 513)


async def test_the_package_is_used_without_a_program(programs: Path) -> None:
    settings = load_settings(engine="llama.cpp")
    assert find_program("llama.cpp")[0] == sys.executable
    one, two = await findings(server(settings, gpu))
    assert (one.state, one.found[:35]) == (State.OK, "the package xllamacpp, version 2026")
    assert (two.state, "--index-url" in two.fix) == (State.WARNING, True)


async def test_a_missing_program_comes_with_its_fix(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    for engine, fix in (("llama.cpp", "pip install 'inhouse[llama-cpp]'"), ("vllm", "-vllm/bin/pip install vllm")):
        with pytest.raises(ConfigError):
            ServerCommands(load_settings(engine=engine))
        (found,) = await findings(server(load_settings(engine=engine), no_gpu))
        assert (found.state, found.check) == (State.WRONG, engine)
        assert fix in found.fix


async def test_an_argument_that_the_package_does_not_take_is_a_mistake(programs: Path) -> None:
    settings = load_settings(engine="llama.cpp", engine_args="--rope-scale 2")
    with pytest.raises(ConfigError, match=r"--rope-scale 2\. The package xllamacpp takes --batch-size, "):
        ServerCommands(settings)
    (found,) = await findings(server(settings, no_gpu))
    assert (found.state, found.fix) == (State.WRONG, "Correct INHOUSE_ENGINE_ARGS.")


async def test_vllm_is_recommended_where_it_and_a_gpu_are(programs: Path) -> None:
    (found,) = await findings(recommended(gpu))
    assert found.state is State.OK
    program(programs, "vllm")
    (found,) = await findings(recommended(gpu))
    assert (found.state, found.fix[:19]) == (State.WARNING, "INHOUSE_ENGINE=vllm")
    (found,) = await findings(recommended(no_gpu))
    assert found.state is State.OK
    (_, warned) = await findings(server(load_settings(engine="vllm"), no_gpu))
    assert warned.state is State.WARNING


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("phi-4", "phi-4"),
        ("Org/Name:Q4_K_M", "Org/Name:Q4_K_M"),
        ("a,b c", "a-b-c"),
        ("--host", "host"),
        ("é", "model"),
    ],
)
def test_an_alias_is_one_word(name: str, alias: str) -> None:
    assert alias_of(name) == alias


def test_variables_that_set_arguments_are_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LLAMA_ARG_HOST", "LLAMA_API_KEY", "HF_TOKEN", "SLACK_BOT_TOKEN"):
        monkeypatch.setenv(variable, "x")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    environment = server_commands.child_environment({"MORE": "1"})
    assert environment["CUDA_VISIBLE_DEVICES"] == environment["MORE"] == "1"
    assert not {"LLAMA_ARG_HOST", "LLAMA_API_KEY", "HF_TOKEN", "SLACK_BOT_TOKEN"} & environment.keys()
    assert os.environ["LLAMA_ARG_HOST"] == "x"
