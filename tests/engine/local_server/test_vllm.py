"""Tests the engine on vLLM as a child, with a stand-in for the program that logs and serves as vLLM does."""

import asyncio
import os
import shlex
from pathlib import Path

import pytest

from bot.engine.local_server.local_server_engine import LocalServerEngine
from bot.engine.remote import remote_engine
from bot.types.engine import EngineRequest, LoadProgress, ModelSource
from bot.types.errors import ConfigError, ModelError, RequestFailed, ServerLost
from bot.types.messages import FinishReason
from tests.support.builders.captured_logs import logs_at
from tests.support.builders.engine_requests import GREEDY, ask, prompt
from tests.support.builders.managed_servers import processes, server_engine, wait_gone
from tests.support.fakes.vllm_program import write_vllm


@pytest.fixture(autouse=True)
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DISCORD_BOT_TOKEN", "a-token-of-discord")
    return write_vllm(folder)


def source(folder: Path, name: str = "org/Model", **how: int | str) -> ModelSource:
    """A model directory, which the stand-in does not read."""
    return ModelSource(name, str(folder), **{"context_window": 1024, **how})  # type: ignore[arg-type]


async def answer(engine: LocalServerEngine) -> str:
    return (await ask(engine, "hello", "hello")).text


async def test_vllm_is_started_followed_asked_and_ended(tmp_path: Path) -> None:
    steps: list[LoadProgress] = []
    with logs_at("debug") as log:
        async with server_engine("vllm", "--max-num-seqs 4") as engine:
            loaded = await engine.load(source(tmp_path, dtype="float16", kv_cache_mb=64), steps.append)
            assert (loaded.device, loaded.dtype, loaded.context_window) == ("vLLM", "float16", 1024)
            assert loaded.kv_cache_tokens == 46_592
            assert [step.fraction for step in steps] == sorted(step.fraction for step in steps)
            assert await answer(engine) == "org/Model read: hello"
            server = engine.servers["org/Model"]
            family = processes(server)
            assert len(family) == 3, "supervisor, server and its worker"
            assert not any(server.key in " ".join(each.cmdline()) for each in family)
        wait_gone(*family)
    assert "vLLM (org/Model): (Worker pid=9) INFO" in log.getvalue()
    assert server.key not in log.getvalue()


def write_nvidia_smi(folder: Path, *lines: str) -> None:
    """A stand-in that prints these lines."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.join(lines)}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("lines", "device", "shown"),
    [
        (("71234, 81559", "1024, 81559"), "auto", (72_258, 163_118)),
        (("[N/A], [N/A]", "No devices were found"), "auto", (0, 0)),
        (("71234, 81559",), "cpu", (0, 0)),
        ((), "auto", (0, 0)),
    ],
    ids=["two GPUs", "none", "not used", "no driver"],
)
async def test_the_memory_of_the_gpus_is_counted(
    tmp_path: Path, vllm: Path, lines: tuple[str, ...], device: str, shown: tuple[int, int]
) -> None:
    if lines:
        write_nvidia_smi(vllm.parent, *lines)
    async with server_engine("vllm", "") as engine:
        await engine.load(source(tmp_path, device=device), lambda _: None)
        stats = await engine.stats()
    assert (stats.gpu_used_mb, stats.gpu_total_mb) == shown


async def test_only_one_model_is_in_memory(tmp_path: Path) -> None:
    async with server_engine("vllm", "", available_mb=lambda: 1_000_000) as engine:
        await engine.load(source(tmp_path), lambda _: None)
        family = processes(engine.servers["org/Model"])
        assert (await engine.load(source(tmp_path, "other"), lambda _: None)).resident == ("other",)
        wait_gone(*family)
        assert await answer(engine) == "other read: hello"


@pytest.mark.parametrize(
    ("ending", "sentence"),
    [
        (
            "memory",
            "vLLM cannot load org/Model: there is not enough memory for it. Choose a smaller model, or one with ",
        ),
        ("architecture", "vLLM cannot load org/Model: this version of vLLM does not know its architecture (OddForCau"),
    ],
)
async def test_the_cause_of_a_failed_load_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, sentence: str
) -> None:
    monkeypatch.setenv("FAKE_VLLM", ending)
    with logs_at("warning") as log:
        async with server_engine("vllm", "") as engine:
            with pytest.raises(ModelError) as raised:
                await engine.load(source(tmp_path), lambda _: None)
            assert str(raised.value).startswith(sentence)
            assert str(tmp_path) not in str(raised.value)
            assert not engine.servers
    assert "Error: " in log.getvalue(), "operators find vLLM's own words"


async def test_a_failed_answer_is_reported_once_the_server_can_be_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "error")
    async with server_engine("vllm", "") as engine:
        await engine.load(source(tmp_path), lambda _: None)
        with pytest.raises(ServerLost):
            await answer(engine)
        assert await answer(engine) == "org/Model read: hello"


async def test_an_id_runs_once_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "hang")
    async with server_engine("vllm", "") as engine, asyncio.timeout(30):
        await engine.load(source(tmp_path), lambda _: None)
        deltas = engine.stream(EngineRequest("hello", prompt("hello"), GREEDY))
        await anext(deltas)
        with pytest.raises(RequestFailed, match="running already"):
            await answer(engine)
        await engine.abort("hello")
        assert [delta.finish_reason async for delta in deltas] == [FinishReason.ABORT]


async def test_an_answer_can_be_stopped_while_its_server_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "hang")
    monkeypatch.setattr(remote_engine, "BETWEEN_TOKENS_S", 0.2)
    with logs_at("warning") as log:
        async with server_engine("vllm", "") as engine, asyncio.timeout(30):
            await engine.load(source(tmp_path), lambda _: None)
            _, server, _ = processes(engine.servers["org/Model"])

            async def ends() -> FinishReason | None:
                deltas = engine.stream(EngineRequest("hello", prompt("hello"), GREEDY))
                last = await anext(deltas)
                server.suspend()
                async for delta in deltas:
                    last = delta
                return last.finish_reason

            asking = asyncio.create_task(ends())
            while "sent nothing" not in log.getvalue():  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.01)
            await engine.abort("hello")
            assert await asking is FinishReason.ABORT


async def test_a_gguf_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    async with server_engine("vllm", "") as engine:
        with pytest.raises(ModelError, match="vLLM needs a model directory"):
            await engine.load(source(tmp_path / "model.gguf"), lambda _: None)


async def test_a_missing_program_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="-vllm/bin/pip install vllm` installs it"):
        async with server_engine("vllm", ""):
            pass
