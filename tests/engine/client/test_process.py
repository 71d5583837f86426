"""Tests the engine's process: it starts on demand, ends with its parent, and its death is an error to handle."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from time import sleep

import psutil
import pytest
import pytest_asyncio

from bot.engine.client.child_process import ChildProcess
from bot.engine.client.process import EngineProcess
from bot.engine.client.protocol import PORT_VARIABLE, SECRET_VARIABLE
from bot.types.engine import LoadProgress, ModelSource
from bot.types.errors import EngineDied, ModelError
from bot.types.messages import FinishReason
from tests.support.builders.engine_requests import GREEDY, ask, load

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[3]
LONG = replace(GREEDY, max_tokens=400, repetition_penalty=1.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own() -> AsyncIterator[EngineProcess]:
    """An engine of this module's own, because tests kill it."""
    process = EngineProcess()
    yield process
    await process.close()


async def test_nothing_runs_before_the_first_load(own: EngineProcess) -> None:
    assert own.pid is None
    with pytest.raises(EngineDied, match="it starts when a model is loaded"):
        await ask(own, "early", "hello")
    with pytest.raises(EngineDied):
        await own.stats()
    await own.abort("nobody")


async def test_a_load_tells_its_progress_and_a_failed_one_leaves_no_model(
    own: EngineProcess, tiny: dict[str, Path], tmp_path: Path
) -> None:
    seen: list[LoadProgress] = []
    source = ModelSource("llama", str(tiny["llama"]), device="cpu", dtype="float32")
    loaded = await own.load(source, seen.append)
    assert loaded.name == "llama"
    assert loaded.context_window == 512
    assert [step.fraction for step in seen] == sorted(step.fraction for step in seen)
    assert len({step.stage for step in seen}) > 1
    with pytest.raises(ModelError):
        await load(own, tmp_path / "nothing here")
    assert (await own.stats()).model == ""
    assert own.pid is not None, "a model that cannot be loaded is no reason for the process to end"


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (None, "There is no directory"),
        ("pytorch_model.bin", "holds no safetensors weights"),
        ("model.safetensors", "is damaged"),
    ],
    ids=["missing", "pickle-only", "corrupt"],
)
async def test_a_model_that_is_no_model_is_refused_and_the_next_one_loads(
    own: EngineProcess, tiny: dict[str, Path], tmp_path: Path, weights: str | None, sentence: str
) -> None:
    bad = tmp_path / "bad"
    if weights is not None:
        shutil.copytree(tiny["llama"], bad)
        (bad / "model.safetensors").unlink()
        (bad / weights).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ModelError, match=sentence):
        await load(own, bad)
    assert (await load(own, tiny["llama"])).name == "llama"


@pytest.mark.fault(27)
async def test_death_at_token_eleven_fails_all_calls_and_a_load_mends_it(
    own: EngineProcess, tiny: dict[str, Path]
) -> None:
    await load(own, tiny["llama"])
    first = own.pid
    whole = await ask(own, "whole", "Where are the keys?", LONG)

    async def kill_at_eleven(count: int) -> None:
        if count == 11:
            assert first is not None
            os.kill(first, signal.SIGKILL)

    outcomes = await asyncio.gather(
        ask(own, "killer", "Where are the keys?", LONG, kill_at_eleven),
        ask(own, "neighbour", "Who wrote this?", LONG),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [EngineDied, EngineDied]
    with pytest.raises(EngineDied):
        await ask(own, "after", "hello")
    await load(own, tiny["llama"])
    assert own.pid != first
    assert (await ask(own, "again", "Where are the keys?", LONG)).text == whole.text


async def test_close_ends_running_answers_and_the_process(own: EngineProcess, tiny: dict[str, Path]) -> None:
    await load(own, tiny["llama"])
    pid = own.pid
    assert pid is not None

    async def close_at_three(count: int) -> None:
        if count == 3:
            await own.close()

    with pytest.raises(EngineDied):
        await ask(own, "running", "Where are the keys?", LONG, close_at_three)
    assert not psutil.pid_exists(pid)
    assert own.pid is None


PARENT = """
import asyncio, sys
from bot.types.engine import EngineRequest, ModelSource
from bot.engine.client.process import EngineProcess
from bot.types.messages import Prompt, Role, SamplingParams, Turn

async def main():
    engine = EngineProcess()
    await engine.load(ModelSource("m", sys.argv[1], device="cpu", dtype="float32"), lambda progress: None)
    asked = Prompt("", (Turn(Role.USER, "Ann", "Where are the keys?", "1", 0.0),))
    async for delta in engine.stream(EngineRequest("1", asked, SamplingParams(temperature=0, max_tokens=400))):
        print(engine.pid, flush=True)

asyncio.run(main())
"""


async def test_a_killed_parent_leaves_no_child(tiny: dict[str, Path]) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(tiny["llama"])), stdout=subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    child = psutil.Process(int(await parent.stdout.readline()))
    assert child.is_running()
    parent.kill()
    await parent.wait()
    await asyncio.to_thread(_gone, child)


def _gone(process: psutil.Process) -> None:
    """Waits until a process has ended, reaped or not; the test's timeout limits it."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        sleep(0.02)


async def test_the_parent_needs_no_torch() -> None:
    code = "import sys, json, bot.engine.client.process; print(json.dumps(sorted(sys.modules)))"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE, cwd=ROOT)
    output, _ = await parent.communicate()
    assert "bot.engine.client.process" in json.loads(output)
    assert not {"torch", "transformers"} & set(json.loads(output))


IMPOSTOR = f"""#!{sys.executable}
import os, socket, sys
import msgspec
connection = socket.create_connection(("127.0.0.1", int(os.environ["{PORT_VARIABLE}"])))
hello = {{"type": "Hello", "secret": os.environ["{SECRET_VARIABLE}"], "version": 1}} | CHANGE
body = msgspec.msgpack.encode(hello)
connection.sendall(len(body).to_bytes(4, "big") + body)
while connection.recv(100):
    pass
"""


@pytest.mark.parametrize("change", [{"secret": "guessed"}, {"version": 99}, {"type": "Stats"}])
async def test_a_wrong_hello_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict[str, object]
) -> None:
    impostor = tmp_path / "impostor"
    impostor.write_text(IMPOSTOR.replace("CHANGE", repr(change)))
    impostor.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impostor))
    with pytest.raises(EngineDied, match="ended before it was ready"):
        await ChildProcess.open()


async def test_the_child_gets_no_tokens(monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Path]) -> None:
    monkeypatch.setenv("DISCORD_BOT_TOKEN", "secret")
    monkeypatch.setenv("HARMLESS", "1")
    link = await ChildProcess.open()
    environment = psutil.Process(link.pid).environ()
    assert (await link.close()).description == "with status 0"
    assert "DISCORD_BOT_TOKEN" not in environment
    assert environment["HARMLESS"] == "1"


def score(process: str | int) -> int:
    """A process's oom_score_adj."""
    return int(Path(f"/proc/{process}/oom_score_adj").read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a score")
async def test_the_kernel_takes_the_child_first_from_its_very_beginning() -> None:
    link = await ChildProcess.open()  # it has sent hello, and has not loaded anything
    try:
        assert score(link.pid) > score("self")
    finally:
        await link.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a score")
async def test_a_service_that_is_itself_taken_early_still_outlives_its_engine() -> None:
    code = (
        "from pathlib import Path; from bot.engine.server.runner import raise_oom_score as raise_it;"
        "own = Path('/proc/self/oom_score_adj'); own.write_text('700'); raise_it(); print(own.read_text())"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE, cwd=ROOT)
    output, _ = await child.communicate()
    assert int(output) == 800


async def test_an_answer_that_reaches_its_limit_says_so(own: EngineProcess, tiny: dict[str, Path]) -> None:
    await load(own, tiny["llama"])
    answer = await ask(own, "short", "Where are the keys?", replace(GREEDY, max_tokens=5, repetition_penalty=1.1))
    assert (answer.finish_reason, answer.usage.generated_tokens) == (FinishReason.LENGTH, 5)
    assert answer.usage.context_window == 512
    assert answer.usage.prompt_tokens > 5
    assert answer.usage.prefill_s > 0
    assert answer.usage.decode_s > 0
