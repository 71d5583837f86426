"""The engines that the contract tests run on: ENGINES maps a name to an async context manager that gives a Subject.

To add one (a real server, say), write such a context manager and register it:

    @asynccontextmanager
    async def run_vllm(folder: Path) -> AsyncIterator[Subject]:
        async with start_vllm(folder) as url:
            engine = RemoteEngine([url])
            try:
                yield Subject(engine, ModelSource("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"))
            finally:
                await engine.close()

    ENGINES["vllm (real)"] = run_vllm

The tests load the model themselves. An engine that is not on this machine is left out of ENGINES.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bot.engine.client.process import EngineProcess
from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.engine import Engine, ModelSource
from tests.support.fakes.openai_server import FakeOpenAI

MODEL = "org/Model-7B"
LONG_QUESTION = "Count to a thousand."
"""Its answer takes so long that it can be aborted in the middle."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine under test, and a model that it can load.

    stop_strings: whether SamplingParams.stop ends its answers; else each answer but that to LONG_QUESTION ends by
    itself. refuses_long: whether a question longer than the window is an error; some servers cut it. sent: all that
    was sent to a scripted server, as text; None for an engine that runs a model.
    """

    engine: Engine
    source: ModelSource
    stop_strings: bool = True
    refuses_long: bool = True
    sent: Callable[[], str] | None = None


@asynccontextmanager
async def run_local(folder: Path) -> AsyncIterator[Subject]:
    """The engine process with a tiny model on the CPU."""
    from tests.support.builders.tiny_models import make_tiny  # imports torch

    engine = EngineProcess()
    path = make_tiny("llama", folder / "llama")
    try:
        yield Subject(engine, ModelSource("tiny", str(path), device="cpu", dtype="float32"))
    finally:
        await engine.close()


@asynccontextmanager
async def run_fake(kind: str, _: Path) -> AsyncIterator[Subject]:
    """The engine on a scripted server of one kind."""
    async with FakeOpenAI(kind, {MODEL: 2048}, pace_s=0.01) as server:
        server.answers(LONG_QUESTION, " ".join(map(str, range(1000))))
        engine = RemoteEngine([server.url])
        try:
            yield Subject(
                engine,
                ModelSource("model-7b", MODEL),
                stop_strings=False,
                refuses_long=kind in ("vllm", "sglang", "llama.cpp"),
                sent=lambda: str([asked.body.get("messages") for asked in server.asked]),
            )
        finally:
            await engine.close()


ENGINES: dict[str, Callable[[Path], AbstractAsyncContextManager[Subject]]] = {
    "local": run_local,
    **{f"fake {kind}": partial(run_fake, kind) for kind in ("vllm", "sglang", "llama.cpp", "ollama", "transformers")},
}
