"""Tests the engine on llama.cpp's real server as a child: loads, answers, ends of all kinds, several models."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bot.engine.local_server import managed_server
from bot.engine.local_server.local_server_engine import LocalServerEngine
from bot.engine.local_server.supervisor import STATUS
from bot.types.engine import EngineRequest, LoadProgress
from bot.types.errors import EngineDied, ModelError
from bot.types.messages import FinishReason, SamplingParams
from tests.support.builders.captured_logs import logs_at
from tests.support.builders.engine_requests import ask, prompt
from tests.support.builders.managed_servers import gguf_source, processes, server_engine, wait_gone

pytest_plugins = ["tests.support.fixtures.gguf"]

ROOT = Path(__file__).parents[3]
CAPITAL = "What is the capital of France?"
LONG = SamplingParams(temperature=0.0, max_tokens=400)


async def answer(engine: LocalServerEngine, question: str = CAPITAL) -> str:
    return (await ask(engine, question, question)).text


async def begun(engine: LocalServerEngine, failed: asyncio.Future[BaseException]) -> asyncio.Task[None]:
    """Starts a long answer and returns once it has its first word; `failed` gets its error."""
    first = asyncio.Event()

    async def tell() -> None:
        request = EngineRequest("long", prompt("Count from one to a thousand in words."), LONG)
        try:
            async for _ in engine.stream(request):
                first.set()
        except EngineDied as error:
            failed.set_result(error)

    task = asyncio.create_task(tell())
    await first.wait()
    return task


async def test_a_model_is_loaded_answers_and_leaves_no_process(
    smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISCORD_BOT_TOKEN", "a-token-of-discord")
    monkeypatch.setenv("LLAMA_ARG_HOST", "0.0.0.0")
    steps: list[LoadProgress] = []
    with logs_at("debug") as log:
        async with server_engine() as engine:
            loaded = await engine.load(gguf_source(smollm2_gguf), steps.append)
            assert steps[0] == LoadProgress("starting llama.cpp", 0.0)
            assert [step.fraction for step in steps] == sorted(step.fraction for step in steps)
            assert any(0 < step.fraction < 1 for step in steps)
            assert (loaded.device, loaded.dtype, loaded.context_window) == ("llama.cpp", "F16", 2048)
            assert (loaded.max_running, loaded.resident) == (4, ("smollm2",))
            spoken = await ask(engine, "one", CAPITAL)
            assert "Paris" in spoken.text
            assert spoken.finish_reason is FinishReason.STOP
            several = await asyncio.gather(*(ask(engine, f"several {number}", CAPITAL) for number in range(4)))
            assert {each.text for each in several} == {spoken.text}

            server = engine.servers["smollm2"]
            family = processes(server)
            assert not any(server.key in " ".join(each.cmdline()) for each in family)
            assert not any("a-token-of-discord" in each.environ().values() for each in family)
            connections = [each for process in family for each in process.net_connections()]
            listening = [each.laddr for each in connections if each.status == psutil.CONN_LISTEN]
            assert [(each.ip, each.port) for each in listening] == [("127.0.0.1", server.port)]
            stats = await engine.stats()
            assert stats.resident_mb > 200
            assert stats.memory_limit_mb > stats.resident_mb
        wait_gone(*family)
        written = log.getvalue()
    assert "llama.cpp (smollm2)" in written
    assert server.key not in written
    assert "WARNING" not in written


@pytest.mark.fault(27)
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV])
async def test_an_answer_whose_server_ends_fails_and_the_next_load_replaces_it(
    smollm2_gguf: Path, sent: signal.Signals
) -> None:
    async with server_engine() as engine:
        await engine.load(gguf_source(smollm2_gguf), lambda _: None)
        failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        running = await begun(engine, failed)
        family = processes(engine.servers["smollm2"])
        family[1].send_signal(sent)
        await running
        error = failed.result()
        assert isinstance(error, EngineDied)
        assert error.external == (sent == signal.SIGKILL)
        assert await engine.wait_until_unhealthy() == str(error)
        wait_gone(*family)
        with pytest.raises(EngineDied):
            await engine.stats()
        await engine.load(gguf_source(smollm2_gguf), lambda _: None)
        assert "Paris" in await answer(engine)


@pytest.mark.fault(29)
async def test_a_server_that_hangs_is_killed_under_an_answer(smollm2_gguf: Path) -> None:
    async with server_engine(hung_s=10.0) as engine:
        await engine.load(gguf_source(smollm2_gguf), lambda _: None)
        failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        running = await begun(engine, failed)
        family = processes(engine.servers["smollm2"])
        family[1].send_signal(signal.SIGSTOP)
        await running
        assert str(failed.result()) == "The engine's process ended."
        assert not getattr(failed.result(), "external", True)
        wait_gone(*family)


async def test_the_end_of_an_idle_server_is_reported(smollm2_gguf: Path) -> None:
    async with server_engine() as engine:
        await engine.load(gguf_source(smollm2_gguf), lambda _: None)
        family = processes(engine.servers["smollm2"])
        family[0].kill()  # the supervisor: what it left is to go, too
        assert "killed from outside (SIGKILL)" in await engine.wait_until_unhealthy()
        wait_gone(*family)
        await engine.close()
        await engine.load(gguf_source(smollm2_gguf), lambda _: None)
        assert "Paris" in await answer(engine)


PARENT = """
import asyncio, sys
from pathlib import Path
from tests.support.builders.managed_servers import gguf_source, processes, server_engine

async def main():
    async with server_engine() as engine:
        await engine.load(gguf_source(Path(sys.argv[1])), lambda _: None)
        print(*(each.pid for each in processes(engine.servers["smollm2"])), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_inhouse_leaves_no_server(smollm2_gguf: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(smollm2_gguf)), stdout=subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    family = [psutil.Process(int(pid)) for pid in (await parent.stdout.readline()).split()]
    assert len(family) == 2
    parent.kill()
    await parent.wait()
    await asyncio.to_thread(wait_gone, *family)


async def test_models_stay_in_memory_while_there_is_room(smollm2_gguf: Path) -> None:
    room = [100_000]
    one, two, three = (gguf_source(smollm2_gguf, name) for name in ("one", "two", "three"))
    async with server_engine(available_mb=lambda: room[0]) as engine:
        await engine.load(one, lambda _: None)
        first = engine.servers["one"].pid
        assert (await engine.load(two, lambda _: None)).resident == ("two", "one")
        back = await engine.load(one, lambda _: None)
        assert (back.name, back.resident) == ("one", ("one", "two"))
        assert engine.servers["one"].pid == first
        assert "Paris" in await answer(engine)
        room[0] = 0
        assert (await engine.load(three, lambda _: None)).resident == ("three",)
        assert list(engine.servers) == ["three"]
        assert "Paris" in await answer(engine)


def damaged(file: Path, folder: Path, how: str) -> Path:
    """A copy of a GGUF file with a mistake."""
    content = bytearray(file.read_bytes())
    if how == "architecture":
        at = content.index(b"\x05\0\0\0\0\0\0\0llama") + 8
        content[at : at + 5] = b"llamx"
    else:
        at = content.index(b"gpt2")
        content[at : at + 4] = b"gpt9"
    copy = folder / "damaged.gguf"
    copy.write_bytes(content)
    return copy


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("architecture", "this version of llama.cpp does not know its architecture (llamx)"),
        ("tokenizer", "this version of llama.cpp does not know its tokenizer (gpt9)"),
    ],
)
async def test_a_model_that_llama_cpp_cannot_load_is_named_with_the_cause(
    smollm2_gguf: Path, tmp_path: Path, how: str, sentence: str
) -> None:
    file = damaged(smollm2_gguf, tmp_path, how)
    async with server_engine() as engine:
        with pytest.raises((ModelError, EngineDied)) as raised:
            await engine.load(gguf_source(file), lambda _: None)
        assert sentence in str(raised.value)
        assert str(tmp_path) not in str(raised.value)
        assert not engine.servers
        await engine.load(gguf_source(smollm2_gguf), lambda _: None)


async def test_a_port_that_another_program_took_is_replaced(
    smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        another, chosen = managed_server.free_port, [other.getsockname()[1]]
        monkeypatch.setattr(managed_server, "free_port", lambda: chosen.pop() if chosen else another())
        async with server_engine() as engine:
            await engine.load(gguf_source(smollm2_gguf), lambda _: None)
            assert engine.servers["smollm2"].port != other.getsockname()[1]


async def test_a_load_that_is_cancelled_leaves_no_process(smollm2_gguf: Path) -> None:
    async with server_engine() as engine:
        started = asyncio.Event()
        loading = asyncio.create_task(engine.load(gguf_source(smollm2_gguf), lambda _: started.set()))
        await started.wait()
        family = processes(engine.servers["smollm2"])
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        wait_gone(*family)
        assert not engine.servers


@pytest.mark.fault(29)
async def test_a_load_without_progress_is_given_up(smollm2_gguf: Path) -> None:
    async with server_engine(hung_s=3.0) as engine:
        started = asyncio.Event()
        loading = asyncio.create_task(engine.load(gguf_source(smollm2_gguf), lambda _: started.set()))
        await started.wait()
        for process in processes(engine.servers["smollm2"]):
            process.send_signal(signal.SIGSTOP)
        with pytest.raises(ModelError, match="made no progress for 3 s at"):
            await loading


def test_the_supervisor_does_not_outlive_its_stdin() -> None:
    command = [sys.executable, "-I", str(managed_server.SUPERVISOR), "", sys.executable, "-c", "input()"]
    done = subprocess.run(command, input=b"", capture_output=True, start_new_session=True, check=False)
    assert done.returncode == -signal.SIGKILL


def test_the_supervisor_reports_how_its_server_ended() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    command = [sys.executable, "-I", str(managed_server.SUPERVISOR), "", sys.executable, "-c", code]
    reading, writing = os.pipe()
    try:
        done = subprocess.run(command, stdin=reading, capture_output=True, start_new_session=True, check=False)
    finally:
        os.close(reading)
        os.close(writing)
    assert done.stdout.decode().splitlines()[-1] == f"{STATUS}-15"
